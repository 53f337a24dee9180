"""One tensor at a time, where it lies in a safetensors shard: its bytes, its values, or others written over it.

Whatever reads raises CheckpointError where the file ends within the tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from prune.checkpoint.headers import Shard, Tensor
from prune.common.errors import CheckpointError

if TYPE_CHECKING:
    import torch

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' name -> torch's
_PIECE = 1 << 20  # bytes read at a time


def torch_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of a tensor of one of the types `FLOATS`."""
    import torch

    dtype: torch.dtype = getattr(torch, FLOATS[tensor.dtype])
    return dtype


def read(shard: Shard, tensor: Tensor) -> torch.Tensor:
    """The tensor's values, in its own dtype.

    Raises:
        CheckpointError: its dtype is not a floating-point type of 16 bits or more.
    """
    import torch

    if tensor.dtype not in FLOATS:
        raise CheckpointError(f"{shard.path}: {tensor.name} is {tensor.dtype}; healing needs floating-point weights")
    content = bytearray(tensor.size)
    read_into(shard, tensor, memoryview(content))
    return torch.frombuffer(content, dtype=torch_dtype(tensor)).reshape(tensor.shape)


def read_bytes(shard: Shard, tensor: Tensor, limit: int | None = None) -> bytes:
    """The tensor's bytes, or the first `limit` of them."""
    content = bytearray(tensor.size if limit is None else min(limit, tensor.size))
    read_into(shard, tensor, memoryview(content))
    return bytes(content)


def read_into(shard: Shard, tensor: Tensor, buffer: memoryview) -> None:
    """Fill `buffer` with the tensor's bytes, from the first on."""
    with shard.path.open("rb", buffering=0) as file:
        file.seek(shard.data_start + tensor.start)
        _fill(file, buffer, shard.path)


def tensor_sha256(shard: Shard, tensor: Tensor) -> str:
    """Hex SHA-256 of a tensor's bytes, read in pieces."""
    digest = hashlib.sha256()
    for piece in _pieces(shard, tensor):
        digest.update(piece)
    return digest.hexdigest()


def same_bytes(ours: tuple[Shard, Tensor], theirs: tuple[Shard, Tensor]) -> bool:
    """Whether two tensors of one size hold the same bytes."""
    pieces = zip(_pieces(*ours), _pieces(*theirs), strict=True)
    return all(bytes(first) == bytes(second) for first, second in pieces)  # views would be compared one by one


def write_over(copy: Path, shard: Shard, tensor: Tensor, values: torch.Tensor) -> None:
    """Write `values`, cast to the tensor's dtype, at its place in `copy`, a file with the bytes of `shard`."""
    import torch

    content = values.to(torch_dtype(tensor)).contiguous().view(torch.uint8).numpy().tobytes()
    if len(content) != tensor.size:
        raise ValueError(f"{tensor.name}: {len(content)} bytes do not fit a place of {tensor.size}")
    with copy.open("r+b") as file:
        file.seek(shard.data_start + tensor.start)
        file.write(content)


def _pieces(shard: Shard, tensor: Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in one buffer that is used again and again."""
    buffer = memoryview(bytearray(min(_PIECE, tensor.size)))
    with shard.path.open("rb", buffering=0) as file:
        file.seek(shard.data_start + tensor.start)
        for start in range(0, tensor.size, _PIECE):
            piece = buffer[: tensor.size - start]
            _fill(file, piece, shard.path)
            yield piece


def _fill(file: BinaryIO, buffer: memoryview, path: Path) -> None:
    while buffer:
        count = file.readinto(buffer)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{path} became shorter while it was read")
        buffer = buffer[count:]
