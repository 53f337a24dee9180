"""The finished parts of a run, kept until it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from prune.common.resume import Arrays, Unfinished

Part = Mapping[str, np.ndarray]


class Kept:
    """Parts by their names, in memory, and from time to time in the file of an unfinished run.

    Args:
        unfinished: that file; nothing outlives the run if None.
        facts: what the parts depend on. Those of an earlier run with the same facts are there again.

    Raises:
        RegrowthError: the file is not what such a run has left.
        UsageError: it is of a run with other facts.
    """

    def __init__(self, unfinished: Unfinished | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self._unfinished = unfinished
        self._parts: dict[str, Part] = {}
        if unfinished is not None:
            self._parts = unfinished.read(facts or {}, _restore) or {}

    def get(self, name: str) -> Part | None:
        """A finished part, or None."""
        return self._parts.get(name)

    def put(self, name: str, part: Part) -> None:
        """Keep a finished part."""
        self._parts[name] = part
        if self._unfinished is not None and self._unfinished.due():
            names = [(name, key) for name, part in self._parts.items() for key in part]
            arrays = {f"array{number}": self._parts[name][key] for number, (name, key) in enumerate(names)}
            self._unfinished.write(names, arrays)


def _restore(names: Any, arrays: Arrays) -> dict[str, Part]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for number, (name, key) in enumerate(names):
        parts.setdefault(name, {})[key] = arrays[f"array{number}"]
    return dict(parts)
