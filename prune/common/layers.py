"""Lists and blocks of layers: read, written out, and which block is best."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from prune.common.errors import UsageError

_MOST = 100_000  # no decoder is deeper; a longer range is a slip, and is refused before it fills memory
_PART = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?")


def parse_layers(text: str, option: str = "--layers") -> tuple[int, ...]:
    """Layer numbers, 0-based and rising, from a list such as `3,7,20-24` (both ends of a range are included).

    Args:
        option: the option that they wrote it for, to name in an error.

    Raises:
        UsageError: empty, not numbers, a range that runs backwards, or a layer named twice.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"{option} {text!r}: {part.strip()!r} is neither a layer nor a range; write 3,7,20-24")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{option} {text!r}: the range {part.strip()} runs backwards")
        if last >= _MOST:
            raise UsageError(f"{option} {text!r}: no model has a layer {last}")
        numbers.extend(range(first, last + 1))
    layers = sorted(numbers)
    for layer, next_layer in pairwise(layers):
        if layer == next_layer:
            raise UsageError(f"{option} {text!r} names layer {layer} twice")
    return tuple(layers)


def runs(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Group layer numbers into runs: `[(start, size), ...]`, rising."""
    blocks: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if blocks and layer == sum(blocks[-1]):
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + 1)
        else:
            blocks.append((layer, 1))
    return blocks


def layers_without(dropped: Iterable[int], layers: int) -> tuple[int, ...]:
    """Those of `layers` layers that are not dropped, rising."""
    gone = set(dropped)
    return tuple(layer for layer in range(layers) if layer not in gone)


def spell_layers(layers: Iterable[int]) -> str:
    """`0-12 and 19-29`: the runs of a set of layer numbers in words; `none` for an empty set."""
    parts = [str(start) if size == 1 else f"{start}-{start + size - 1}" for start, size in runs(layers)]
    if len(parts) < 2:
        return parts[0] if parts else "none"
    return ", ".join(parts[:-1]) + " and " + parts[-1]


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


def best_start(distance_row: Sequence[float], layers: int, n: int) -> int:
    """l*(n) = argmin over l of d(l, n) (arXiv 2403.17887, section 3.2); of equals the smaller l.

    Args:
        distance_row: d(l, n) for l = 0 .. layers - n, so layers - n + 1 values in [0, 1]. The last of them, of the
            block that drops the last layer, has no say: the paper says never to drop that.

    Raises:
        UsageError: no block of that size fits.
    """
    allowed = starts(layers, n)
    if len(distance_row) != layers - n + 1:
        raise ValueError(f"row of block size {n} holds {len(distance_row)} values, not {layers - n + 1}")
    return min(allowed, key=lambda start: (distance_row[start], start))


def deepest_start(layers: int, n: int) -> int:
    """The paper's simple rule (section 4.4): drop the deepest n layers but the last, L-1-n .. L-2."""
    return starts(layers, n)[-1]


def lowest_influence(
    influence: Sequence[float],
    n: int,
    allow_last: bool = False,
    may_go: Callable[[Sequence[int]], bool] = lambda layers: True,
) -> list[int]:
    """The n layers of least block influence, ascending by index and not always contiguous; of equals the smaller.

    Args:
        influence: 1 - mean cos(x[l], x[l+1]) for l = 0 .. L-1 (ShortGPT, arXiv 2403.03853, equation 1).
        may_go: whether layers may be among the n; a layer that may not join those before it is passed over.

    Raises:
        UsageError: fewer than n layers may be dropped.
    """
    layers = len(influence)
    starts(layers, n, allow_last=allow_last)  # checks that n layers can go
    chosen: list[int] = []
    for layer in sorted(range(layers if allow_last else layers - 1), key=lambda layer: (influence[layer], layer)):
        if len(chosen) < n and may_go([*chosen, layer]):
            chosen.append(layer)
    return sorted(chosen)
