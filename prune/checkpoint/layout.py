"""The arithmetic of a cut shard: which byte ranges of the source stay, under which header. No file is touched.

A safetensors file is tiled by its tensors without holes, so kept tensors close ranks in their old order: the new
data is a concatenation of ranges of the old, and neighbours that stay together are one range.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from prune.checkpoint.headers import Shard, Tensor

_ALIGNMENT = 8  # the data of a safetensors file begins at a multiple of this
_LONGEST_PADDING = 1 << 16  # bytes of spaces that a header may be given


@dataclass(frozen=True)
class Range:
    """`length` bytes from `source` (from the beginning of the source file) to `target` (of the new file)."""

    source: int
    target: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A new shard: the header's bytes (length prefix and padding included) and the ranges that follow it.

    `whole`: the source's file stays as it is, header included; then `header` is empty and the one range is the file.
    """

    header: bytes
    ranges: tuple[Range, ...]
    tensors: tuple[Tensor, ...]
    whole: bool = False

    @property
    def size(self) -> int:
        """Bytes of the whole new file."""
        return len(self.header) + sum(part.length for part in self.ranges)


def lay_out(shard: Shard, rename: Callable[[str], str | None]) -> Layout:
    """The new shard for a source shard.

    Args:
        rename: a tensor's new name; None drops it. It sees the metadata's strings too, and leaves other words be.

    Raises:
        ValueError: two kept tensors would get one name, or one is stored under a dropped name.
    """
    tensors: list[Tensor] = []
    sources: list[tuple[int, int]] = []
    end = 0
    for tensor in shard.tensors:
        name = rename(tensor.name)
        if name is None:
            continue
        tensors.append(Tensor(name, tensor.dtype, tensor.shape, end, end + tensor.size))
        sources.append((tensor.start, tensor.size))
        end += tensor.size
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError(f"{shard.name}: two tensors would get one name")
    metadata = _rename_metadata(shard, rename)
    if metadata == shard.metadata and tensors == list(shard.tensors):
        size = shard.data_start + shard.size
        return Layout(b"", (Range(0, 0, size),), tuple(tensors), whole=True)
    header = encode_header(tensors, metadata)
    ranges = []
    target = len(header)
    for start, length in coalesce(sources):
        ranges.append(Range(shard.data_start + start, target, length))
        target += length
    return Layout(header, tuple(ranges), tuple(tensors))


def aligned(layout: Layout, block: int) -> Layout:
    """The same shard with a longer header, so that blocks of a file system can be shared instead of copied.

    Args:
        layout: from `lay_out`.
        block: bytes of a block, a power of two. As many bytes as possible then stand as far into a block as they do
            in the source.
    """
    shared: dict[int, int] = {}
    for part in layout.ranges:
        padding = (part.source - part.target) % block
        if padding % _ALIGNMENT == 0:
            shared[padding] = shared.get(padding, 0) + part.length
    padding = max(shared, key=lambda padding: (shared[padding], -padding), default=0)
    if layout.whole or block > _LONGEST_PADDING or not padding:
        return layout
    ranges = tuple(replace(part, target=part.target + padding) for part in layout.ranges)
    text = layout.header[8:] + b" " * padding  # spaces, which the format allows
    return replace(layout, header=len(text).to_bytes(8, "little") + text, ranges=ranges)


def split_range(part: Range, block: int) -> tuple[Range, Range, Range] | None:
    """Head, middle and tail of a range, the middle being whole blocks on both sides; None where there are none."""
    head = -part.source % block
    middle = (part.length - head) // block * block
    if (part.source - part.target) % block or middle <= 0:
        return None
    sizes = (head, middle, part.length - head - middle)
    starts = (0, head, head + middle)
    first, second, third = (
        Range(part.source + start, part.target + start, size) for start, size in zip(starts, sizes, strict=True)
    )
    return first, second, third


def _rename_metadata(shard: Shard, rename: Callable[[str], str | None]) -> dict[str, str]:
    """safetensors' `save_model` keeps here which tensor a left-out twin shares its data with: names on both sides."""
    renamed = {}
    for key, value in shard.metadata.items():
        new_key, new_value = rename(key), rename(value)
        if new_key is None:
            continue
        if new_value is None:
            raise ValueError(f"kept tensor {key} is stored as {value}, which would be dropped")
        renamed[new_key] = new_value
    return renamed


def coalesce(pieces: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join neighbouring `(start, length)` pieces, given in rising order; empty ones vanish."""
    joined: list[tuple[int, int]] = []
    for start, length in pieces:
        if joined and start == sum(joined[-1]):
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        elif length:
            joined.append((start, length))
    return joined


def encode_header(tensors: Iterable[Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors header: u64 length, compact JSON, spaces up to a multiple of 8."""
    table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    for tensor in tensors:
        table[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.start, tensor.end],
        }
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
