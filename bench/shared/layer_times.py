"""Seconds of a model that runs layer by layer from its files: reading layers, computing, and all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from prune.models.walks.layer_files import LayerFiles, _Slots


@dataclass
class LayerTimes:
    """`read` is spent in a thread beside `compute`, so `wall` may be less than their sum."""

    read: float = 0.0
    compute: float = 0.0
    wall: float = 0.0


@contextmanager
def layer_times() -> Iterator[LayerTimes]:
    """What is spent while the block runs; filled in when it ends."""
    times, read, each = LayerTimes(), _Slots.read, LayerFiles.each

    def timed_read(slots: Any, turn: int) -> None:
        began = time.monotonic()
        read(slots, turn)
        times.read += time.monotonic() - began

    def timed_each(files: Any, indices: Any) -> Iterator[tuple[int, Any]]:
        for layer in each(files, indices):
            began = time.monotonic()
            yield layer
            times.compute += time.monotonic() - began

    began = time.monotonic()
    with patch.object(_Slots, "read", timed_read), patch.object(LayerFiles, "each", timed_each):
        yield times
    times.wall = time.monotonic() - began
