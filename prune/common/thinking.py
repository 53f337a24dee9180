"""Fast and slow thinking, the values of `--thinking`: an answer at once, or after a chain of thought."""

from __future__ import annotations

from collections.abc import Iterable

from prune.common.errors import UsageError

FAST, SLOW = "fast", "slow"
MODES = (FAST, SLOW)


def parse_modes(thinking: str | Iterable[str]) -> tuple[str, ...]:
    """Read `fast`, `slow`, `fast,slow` or a list of modes.

    Returns:
        The modes in the order of `MODES`, without repeats; empty if none is named.

    Raises:
        UsageError: a mode that is unknown.
    """
    words = thinking.split(",") if isinstance(thinking, str) else thinking
    modes = {word.strip() for word in words} - {""}
    if unknown := sorted(modes - set(MODES)):
        raise UsageError(f"--thinking {unknown[0]} is unknown; use fast, slow or fast,slow")
    return tuple(mode for mode in MODES if mode in modes)
