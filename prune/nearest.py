"""Where a cut cannot be exact: the nearest block that can. Pure: it only asks a predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prune.layer_ranges import spell_layers

_WIDER = 16  # how many layers more or fewer a block may have that is still near


def advice(works: Callable[[Sequence[int]], bool], layers: int, kept: Sequence[int]) -> str:
    """A phrase that names the nearest block.

    Args:
        works: whether a model can keep these layers (0-based, rising).
        layers: L.
        kept: what was asked for.
    """
    dropped = sorted(set(range(layers)) - set(kept))
    found = nearest_block(works, layers, dropped)
    if found is None:
        return "no block of about that size would be exact"
    last = " --allow-last" if found[-1] == layers - 1 else ""
    return f"the nearest block that is exact is --layers {spell_layers(found)}{last}"


def nearest_block(
    works: Callable[[Sequence[int]], bool], layers: int, dropped: Sequence[int]
) -> tuple[int, ...] | None:
    """The block nearest to `dropped` that works: of the same size if there is one, then by how far it lies off.

    A block that takes the last layer comes last among those of its size, unless it was asked for.
    """
    for start, size in _blocks(layers, dropped):
        block = tuple(range(start, start + size))
        if works([layer for layer in range(layers) if not start <= layer < start + size]):
            return block
    return None


def _blocks(layers: int, dropped: Sequence[int]) -> Iterator[tuple[int, int]]:
    wanted, first = len(dropped), min(dropped, default=0)
    takes_last = layers - 1 in dropped
    sizes = sorted(range(1, layers), key=lambda size: (abs(size - wanted), size > wanted))
    for size in sizes:
        if abs(size - wanted) > _WIDER:
            return
        starts = range(layers - size + 1)
        yield from (
            (start, size)
            for start in sorted(
                starts, key=lambda start: (start + size == layers and not takes_last, abs(start - first), start)
            )
        )
