"""Bytes that a loaded model holds: of its weights, as they stand, and of the cache that it fills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


def held_weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights, tied ones once; of packed ones with their scales and code books.

    Buffers count where a checkpoint stores them. Tables that are computed at loading, such as rotary frequencies, do
    not.
    """
    weights: dict[int, torch.Tensor] = {}
    for module in model.modules():
        stored = {name: buffer for name, buffer in module._buffers.items() if buffer is not None}
        for name in module._non_persistent_buffers_set:
            stored.pop(name, None)
        for weight in (*module.parameters(recurse=False), *stored.values()):
            weights[id(weight)] = weight
            scales = (*tensors_in(getattr(weight, "quant_state", None)), *tensors_in(getattr(weight, "SCB", None)))
            weights |= {id(scale): scale for scale in scales if scale.dim()}
    return sum(weight.numel() * weight.element_size() for weight in weights.values())


def held_cache_bytes(cache: Any) -> int:
    """Bytes of the keys, values and states in a cache of transformers, of all sequences."""
    held = {id(tensor): tensor for tensor in tensors_in(cache) if tensor.dim() > 1}  # others are counters
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def tensors_in(value: Any, seen: set[int] | None = None) -> Iterator[torch.Tensor]:
    """Every tensor that an object holds, in its fields, lists and mappings."""
    seen = set() if seen is None else seen
    if value is None or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
        return
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple | set):
        inner = value
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        inner = vars(value).values()
    for each in inner:
        yield from tensors_in(each, seen)
