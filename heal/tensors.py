"""Tensors where they lie in safetensors files: read one, or write one over, without holding a shard in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from prune.errors import CheckpointError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HEADER_LIMIT = 100_000_000


@dataclass(frozen=True)
class Place:
    """A tensor's place: `start` and `stop` are offsets in bytes from the start of the file `shard`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    stop: int


def places(shard: Path) -> list[Place]:
    """The tensors of one safetensors file, from its header.

    Raises:
        CheckpointError: not a safetensors file, or its header does not fit its data.
    """
    size = shard.stat().st_size
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_HEADER_LIMIT, size - 8):
            raise CheckpointError(f"{shard} is not a whole safetensors file")
        try:
            header = json.loads(file.read(length))
            entries = {name: value for name, value in header.items() if name != "__metadata__"}
            found = [
                Place(
                    name,
                    value["dtype"],
                    tuple(value["shape"]),
                    shard,
                    8 + length + value["data_offsets"][0],
                    8 + length + value["data_offsets"][1],
                )
                for name, value in entries.items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{shard} has a header that cannot be read ({error})") from None
    for place in found:
        if not 8 + length <= place.start <= place.stop <= size:
            raise CheckpointError(f"{shard} is cut short: {place.name} lies beyond its end")
    return found


def read(place: Place) -> torch.Tensor:
    """The tensor at `place`, in its own dtype.

    Raises:
        CheckpointError: not a floating-point tensor, or its size does not fit its shape.
    """
    dtype = _DTYPES.get(place.dtype)
    if dtype is None:
        raise CheckpointError(f"{place.shard}: {place.name} is {place.dtype}; healing needs floating-point weights")
    with place.shard.open("rb") as file:
        file.seek(place.start)
        content = bytearray(file.read(place.stop - place.start))
    if len(content) != prod(place.shape) * dtype.itemsize:
        raise CheckpointError(f"{place.shard}: {place.name} has {len(content)} bytes, which do not fit its shape")
    return torch.frombuffer(content, dtype=dtype).reshape(place.shape)


def write_over(place: Place, tensor: torch.Tensor, shard: Path) -> None:
    """Write `tensor`, cast to the dtype at `place`, over the same place of another file of the same layout."""
    content = tensor.to(_DTYPES[place.dtype]).contiguous().view(torch.uint8).numpy()
    if content.nbytes != place.stop - place.start:
        raise ValueError(f"{place.name}: {content.nbytes} bytes do not fit a place of {place.stop - place.start}")
    with shard.open("r+b") as file:
        file.seek(place.start)
        file.write(content.tobytes())
