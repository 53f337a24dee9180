"""Rows a forward pass, and whether its activations are computed anew: chosen for the memory there is.

A step keeps its rows, so what is learnt stays the same: only how many go through the model at once is settled here.
"""

from __future__ import annotations

from math import isqrt

from heal.budget.cost import Job, flops_per_token, needed
from prune.models.memory.shapes import ModelShape

# Weights are read, and in 4 bits unpacked, once a pass. At 2048 tokens that takes an eighth of its time (bench/gpu.py's
# model of an H100): as long as so many tokens.
_PASS_TOKENS = 250


def choose_pass(
    shape: ModelShape,
    job: Job,
    rows: int,
    room: int,
    *,
    batch_size: int | None = None,
    checkpointing: bool | None = None,
) -> Job | None:
    """The fastest way to run a step's rows in so much memory; None where not even one row fits.

    Args:
        rows: of a step, in this process. A pass takes a divisor of them, so that all passes are alike.
        room: bytes for tensors.
        batch_size, checkpointing: those that are given, and so are not chosen.
    """
    sizes = _divisors(rows) if batch_size is None else [batch_size]
    ways = [True, False] if checkpointing is None else [checkpointing]
    # of equally fast ones `min` takes the first, which takes less memory
    jobs = [job.but(batch_size=size, checkpointing=way) for size in sizes for way in ways]
    fitting = [one for one in jobs if needed(shape, one) <= room]
    return min(fitting, key=lambda one: _price(shape, one), default=None)


def _divisors(number: int) -> list[int]:
    """Rising; in as many steps as the square root has."""
    low = [size for size in range(1, isqrt(number) + 1) if number % size == 0]
    return sorted({*low, *(number // size for size in low)})


def _price(shape: ModelShape, job: Job) -> float:
    """Time for a token, in FLOPs."""
    return flops_per_token(shape, job) * (1 + _PASS_TOKENS / job.tokens)
