"""One model over several GPUs: what enters each layer in training, where `prune.models.spread` puts the layers.

For a model in training that one card does not hold, such as a 70B to distil on cards of 24 to 48 GB. The cards work one
after the other, at the speed of one. Teacher and student are two trees over one copy of the weights
(`heal.models.student`): a layer and its twin in the other tree share their weights, so they share their place.

What enters a layer is brought to its place by a hook of torch's own kind, which a twin inherits with its layer.
accelerate's hooks are taken off: they hold on to the module that they were made for, and not to its twin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from prune.models.loading import decoder_layers
from prune.models.spread import parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What masks and rotary tables became elsewhere: every layer of a place is given the same ones.
_BROUGHT: Any = WeakIdKeyDictionary()


def carry_states(model: PreTrainedModel) -> None:
    """Let every part of a model bring what enters it to where its weights are."""
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)
    for module in model.modules():
        forward = vars(module).get("forward")
        if getattr(forward, "__func__", None) is type(module).forward:
            del module.forward  # what accelerate puts back, bound to this module: a twin would run it, not its own
    first = model.get_input_embeddings()
    for _, part in parts_of(model, decoder_layers(model)):
        weighted = next(part.parameters(), None) is not None  # a norm may have no weights
        part.register_forward_pre_hook(_bring_inputs if weighted else _bringing_to(first), with_kwargs=True)


def _bring_inputs(module: torch.nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    place = _place(module)
    return _bring(args, place), _bring(kwargs, place)


def _bringing_to(first: torch.nn.Module) -> Any:
    return lambda _module, args, kwargs: _bring_inputs(first, args, kwargs)


def _place(module: torch.nn.Module) -> Any:
    return next(module.parameters()).device


def _bring(value: Any, place: Any) -> Any:
    """A tensor, or a tuple, list or dictionary of such, at the place; anything else, such as a cache, as it is."""
    if isinstance(value, torch.Tensor):
        return _carry(value, place)
    if type(value) in (tuple, list):
        return type(value)(_bring(part, place) for part in value)
    if type(value) is dict:
        return {name: _bring(part, place) for name, part in value.items()}
    return value


def _carry(tensor: torch.Tensor, place: Any) -> torch.Tensor:
    if tensor.device == place:
        return tensor
    if tensor.requires_grad:
        return tensor.to(place)
    known = _BROUGHT.setdefault(tensor, {})
    if place not in known:
        known[place] = tensor.to(place)
    brought: torch.Tensor = known[place]
    return brought
