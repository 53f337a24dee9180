"""Bytes that a loaded model holds: of its weights, as they stand, and of the cache that it filled.

`prune.models.memory.weights` and `prune.models.memory.kv_cache` tell the same before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from prune.models.memory.kv_cache import tensors_in


def held_weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, tied ones once, with the scales and code books of packed ones."""
    held = {id(tensor): tensor for weight in (*model.parameters(), *model.buffers()) for tensor in _parts(weight)}
    return sum(tensor.nbytes for tensor in held.values())


def _parts(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """A weight, and what bitsandbytes keeps beside its packed values."""
    yield weight
    state: Any = getattr(weight, "quant_state", None)
    while state is not None:  # the scales of NF4 are quantised themselves
        yield from (tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None)
        state = state.state2
    if (scales := getattr(weight, "SCB", None)) is not None:
        yield scales


def held_cache_bytes(cache: Any) -> int:
    """Bytes of the keys, values and states in a cache of transformers, of all sequences; counters are left out."""
    return sum(tensor.nbytes for _, tensor in tensors_in(cache) if tensor.dim())
