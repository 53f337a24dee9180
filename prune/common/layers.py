"""Sets of layer numbers as people write them: "3,7,20-24" in, "0-12 and 19-29" out. Both ends are included."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prune.common.errors import UsageError

_MOST = 100_000  # no decoder is deeper; a longer range is a slip, and is refused before it fills memory
_PART = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?")


def parse_layers(text: str, option: str = "--layers") -> tuple[int, ...]:
    """Layer numbers, 0-based and rising, from a list such as `3,7,20-24` (both ends of a range are included).

    Args:
        text: as the user wrote it.
        option: the option that they wrote it for, to name in an error.

    Raises:
        UsageError: empty, not numbers, a range that runs backwards, or a layer named twice.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"{option} {text!r}: {part.strip()!r} is neither a layer nor a range; write 3,7,20-24")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{option} {text!r}: the range {part.strip()} runs backwards")
        if last >= _MOST:
            raise UsageError(f"{option} {text!r}: no model has a layer {last}")
        found.extend(range(first, last + 1))
    twice = sorted({layer for layer in found if found.count(layer) > 1}) if len(found) != len(set(found)) else []
    if twice:
        raise UsageError(f"{option} {text!r} names layer {twice[0]} twice")
    return tuple(sorted(found))


def runs(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Group layer numbers into runs: `[(start, size), ...]`, rising."""
    found: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if found and layer == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((layer, 1))
    return found


def spell_layers(layers: Iterable[int]) -> str:
    """`0-12 and 19-29`: the runs of a set of layer numbers in words; `none` for an empty set."""
    parts = [str(start) if size == 1 else f"{start}-{start + size - 1}" for start, size in runs(layers)]
    if len(parts) < 2:
        return parts[0] if parts else "none"
    return ", ".join(parts[:-1]) + " and " + parts[-1]
