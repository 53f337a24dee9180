"""What one turn is to measure, and what it gave: plain values, which travel between processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TurnOrder:
    """Which weights are measured, where, and on prompts of which size.

    `dtype` and `device` are words of the command line; `spread`: over all GPUs.
    """

    folder: str
    name: str
    dtype: str
    load_in_4bit: bool
    spread: bool
    device: str
    context: int
    new_tokens: int
    sequences: int
    seed: int


@dataclass(frozen=True)
class Turn:
    """What a turn gave.

    `cache_bytes` are those of all sequences when the last token was written. `peak_memory_bytes` is None on a device
    whose allocator does not tell it.
    """

    parameters: int
    weight_bytes: int
    cache_bytes: int
    peak_memory_bytes: int | None
    prefill_seconds: float
    decode_seconds: float
