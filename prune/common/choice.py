"""Which layers to drop, from numbers alone. Layers are 0-based; block (start l, size n) drops l .. l+n-1."""

from __future__ import annotations

from collections.abc import Sequence

from prune.common.errors import UsageError


def starts(layers: int, n: int, *, allow_last: bool = False) -> range:
    """Starts that a block of `n` of `layers` layers may have: l + n <= layers - 1 unless `allow_last`.

    Raises:
        UsageError: no block of that size fits.
    """
    most = layers - (0 if allow_last else 1)
    if not 1 <= n <= most:
        kept = "" if allow_last else " (the last layer is kept)"
        raise UsageError(f"a block of {n} layers does not fit: of {layers} layers, 1 to {most} can be dropped{kept}")
    return range(most - n + 1)


def best_start(distance_row: Sequence[float], layers: int, n: int, allow_last: bool = False) -> int:
    """l*(n) = argmin over l of d(l, n) (arXiv 2403.17887, section 3.2); of equals the smaller l.

    Args:
        distance_row: d(l, n) for l = 0 .. layers - n, so layers - n + 1 values in [0, 1].
        layers: number of layers L.
        n: block size.
        allow_last: also consider the block that drops the last layer, which the paper says never to drop.

    Raises:
        UsageError: no block of that size fits.
    """
    found = starts(layers, n, allow_last=allow_last)
    if len(distance_row) != layers - n + 1:
        raise ValueError(f"row of block size {n} holds {len(distance_row)} values, not {layers - n + 1}")
    return min(found, key=lambda start: (distance_row[start], start))


def deepest_start(layers: int, n: int) -> int:
    """The paper's simple rule (section 4.4): drop the deepest n layers but the last, L-1-n .. L-2."""
    return starts(layers, n)[-1]


def lowest_influence(influence: Sequence[float], n: int, allow_last: bool = False) -> list[int]:
    """The n layers of least block influence, ascending by index and not always contiguous; of equals the smaller.

    Args:
        influence: 1 - mean cos(x[l], x[l+1]) for l = 0 .. L-1 (ShortGPT, arXiv 2403.03853, equation 1).
        n: how many layers to drop.
        allow_last: whether the last layer may be among them.

    Raises:
        UsageError: fewer than n layers may be dropped.
    """
    layers = len(influence)
    starts(layers, n, allow_last=allow_last)  # checks that n layers can go
    candidates = range(layers if allow_last else layers - 1)
    return sorted(sorted(candidates, key=lambda layer: (influence[layer], layer))[:n])
