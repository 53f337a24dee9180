"""One tensor at a time, where it lies in a safetensors shard: read it, or write another over it in a copy."""

from __future__ import annotations

from pathlib import Path

import torch

from prune.checkpoint.headers import Shard, Tensor
from prune.common.errors import CheckpointError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read(shard: Shard, tensor: Tensor) -> torch.Tensor:
    """The tensor's values, in its own dtype.

    Raises:
        CheckpointError: its dtype is not a floating-point type of 16 bits or more.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise CheckpointError(f"{shard.path}: {tensor.name} is {tensor.dtype}; healing needs floating-point weights")
    return torch.frombuffer(bytearray(read_bytes(shard, tensor)), dtype=dtype).reshape(tensor.shape)


def read_bytes(shard: Shard, tensor: Tensor, limit: int | None = None) -> bytes:
    """The tensor's bytes, or the first `limit` of them."""
    with shard.path.open("rb") as file:
        file.seek(shard.data_start + tensor.start)
        return file.read(tensor.size if limit is None else min(limit, tensor.size))


def write_over(copy: Path, shard: Shard, tensor: Tensor, values: torch.Tensor) -> None:
    """Write `values`, cast to the tensor's dtype, at its place in `copy`, a file with the bytes of `shard`."""
    content = values.to(_DTYPES[tensor.dtype]).contiguous().view(torch.uint8).numpy().tobytes()
    if len(content) != tensor.size:
        raise ValueError(f"{tensor.name}: {len(content)} bytes do not fit a place of {tensor.size}")
    with copy.open("r+b") as file:
        file.seek(shard.data_start + tensor.start)
        file.write(content)
