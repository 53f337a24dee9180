"""Samples in batches: which go together, and how they are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plan_batches(lengths: Sequence[int], *, batch_size: int | str, budget: int) -> list[list[int]]:
    """Group samples of like length, longest first, so that little is padded and too big a batch fails at once.

    Args:
        lengths: tokens of each sample.
        batch_size: samples a batch, or "auto": as many as fill `budget` tokens with padding, at least one.
        budget: tokens of an "auto" batch.

    Returns:
        Sample numbers, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    while order:
        size = int(batch_size) if batch_size != "auto" else max(1, budget // lengths[order[0]])
        batches.append(order[:size])
        order = order[size:]
    return batches


def padded(windows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Token ids and attention mask, both (B, T) of int64, padded on the right with a token that is masked."""
    import torch

    longest = max(map(len, windows))
    ids = torch.zeros(len(windows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
        mask[row, : len(window)] = 1
    return ids, mask
