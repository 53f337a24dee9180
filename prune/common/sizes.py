"""Sizes and token counts as people write them."""

from __future__ import annotations

import re

from prune.common.errors import UsageError

_UNITS = {"": 1 << 30, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")  # more digits would be infinite as a float
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def parse_size(text: str, *, option: str = "--max-memory") -> int:
    """`4GiB`, `800MB` or `4` (GiB) in bytes.

    Raises:
        UsageError: not of that form, or nothing at all.
    """
    match = _SIZE.fullmatch(text)
    unit = match[2].upper() if match else None
    size = int(float(match[1]) * _UNITS[unit]) if match and unit in _UNITS else 0
    if size <= 0:
        raise UsageError(f"{option} {text}: write a size such as 4GiB or 800MB")
    return size


def spell_size(size: float, *, digits: int = 1) -> str:
    """Bytes for people: `23.5 GiB`, with as many digits behind the point, and below one GiB `12.0 MiB`."""
    return f"{size / 2**30:,.{digits}f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def counted(number: int, noun: str) -> str:
    """`1 question`, `3 questions`, `1,200 questions`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def parse_tokens(text: str | int, *, option: str = "--tokens") -> int:
    """Read a number of tokens such as `60k`, `2M`, `1.5M`, `164000000`.

    Raises:
        UsageError: not such a number, or not above 0.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?|\.\d+)([kmb]?)", str(text).strip().lower().replace("_", ""))
    count = round(float(match[1]) * _COUNTS[match[2]]) if match else 0
    if count < 1:
        raise UsageError(f"{option} {text!r} is not a number of tokens; write it as 60k, 2M or 164000000")
    return count
