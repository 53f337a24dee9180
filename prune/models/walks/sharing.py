"""Another tree of modules over the tensors of a loaded model: a pruned model that takes no memory for weights.

The full model's tree is rebuilt from aliases: new modules, the same parameters. The new one has the pruned model's
config and layers, as if it had been loaded from the checkpoint that a cut writes, and so it generates with a cache of
its own; the full model stays as it was loaded. Modes, hooks and adapters of one tree do not reach the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from prune.models.loading import decoder_layers, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def over_same_weights(full: PreTrainedModel, config: Any, kept: Sequence[int]) -> PreTrainedModel:
    """The pruned model over the tensors of the full one.

    Args:
        full: loaded; unchanged by this.
        config: the pruned model's; it is set to the full one's attention, dtype and quantisation.
        kept: layer i of the pruned model is layer kept[i] of the full one.
    """
    memo: dict[int, Any] = {}
    for part, ours in ((full.config, config), (text_config(full.config), text_config(config))):
        ours._attn_implementation = part._attn_implementation
        ours.dtype = part.dtype
        memo[id(part)] = ours
    if getattr(full, "hf_quantizer", None) is not None:
        memo[id(full.hf_quantizer)] = full.hf_quantizer
        config.quantization_config = full.config.quantization_config
    for module in full.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            memo[id(tensor)] = tensor
        if not module._modules and (module._parameters or module._buffers):
            memo[id(module)] = _alias(module)
    pruned = copy.deepcopy(full, memo)
    layers = decoder_layers_of(pruned, len(decoder_layers(full)))
    remaining = [layers[layer] for layer in kept]
    for place, (layer, source) in enumerate(zip(remaining, kept, strict=True)):
        _renumber(layer, source, place)
    layers._modules = {str(place): layer for place, layer in enumerate(remaining)}
    pruned.train(full.training)
    return pruned


def decoder_layers_of(model: PreTrainedModel, count: int) -> torch.nn.ModuleList:
    """The list of `count` decoder layers, whatever the config of the model says."""
    held = text_config(model.config)
    stated = held.num_hidden_layers
    held.num_hidden_layers = count
    try:
        return decoder_layers(model)
    finally:
        held.num_hidden_layers = stated


def _alias(module: torch.nn.Module) -> torch.nn.Module:
    """Another module over the same parameters, with a mode and hooks of its own."""
    twin = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):  # _parameters, _buffers, and every kind of hook
            vars(twin)[name] = value.copy()
        elif isinstance(value, set):
            vars(twin)[name] = set(value)
    return twin


def _renumber(layer: torch.nn.Module, source: int, place: int) -> None:
    """`layer_idx` is looked up in the config's lists by some families; those of the pruned config are its own."""
    for module in layer.modules():
        if vars(module).get("layer_idx") == source:
            vars(module)["layer_idx"] = place
