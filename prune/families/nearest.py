"""Where a cut cannot be exact: the nearest block that can. Pure: it only asks a predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prune.common.layers import spell_layers

_WIDER = 16  # how many layers more or fewer a block may have that is still near


def advice(works: Callable[[Sequence[int]], bool], layers: int, kept_layers: Sequence[int]) -> str:
    """A phrase that names the nearest block.

    Args:
        works: whether a model can keep these layers (0-based, rising).
        layers: L.
        kept_layers: what was asked for.
    """
    dropped = sorted(set(range(layers)) - set(kept_layers))
    block = nearest_block(works, layers, dropped)
    if block is None:
        return "no block of about that size would be exact"
    last = " --allow-last" if block[-1] == layers - 1 else ""
    return f"the nearest block that is exact is --layers {spell_layers(block)}{last}"


def nearest_block(
    works: Callable[[Sequence[int]], bool], layers: int, dropped: Sequence[int]
) -> tuple[int, ...] | None:
    """The block nearest to `dropped` that works: by size first, then by how far it lies off.

    Blocks that take the last layer come after all others, unless it was asked for.
    """
    for start, size in _blocks(layers, dropped):
        block = tuple(range(start, start + size))
        if works([layer for layer in range(layers) if not start <= layer < start + size]):
            return block
    return None


def _blocks(layers: int, dropped: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, size) of all blocks of about the size of `dropped`, the nearest first."""
    wanted, first, last = len(dropped), min(dropped, default=0), layers - 1 in dropped
    blocks = [
        (start, size)
        for size in range(max(1, wanted - _WIDER), min(layers - 1, wanted + _WIDER) + 1)
        for start in range(layers - size + 1)
    ]

    def distance(block: tuple[int, int]) -> tuple[bool, int, bool, int, int]:
        start, size = block
        takes_last = start + size == layers and not last
        return takes_last, abs(size - wanted), size > wanted, abs(start - first), start

    yield from sorted(blocks, key=distance)
