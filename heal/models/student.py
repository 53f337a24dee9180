"""Teacher and student on one copy of the weights: the full model, and a second tree of modules over its tensors.

The student stands over the full model's tensors (`prune.models.walks.sharing`). It has the pruned model's config and
layers, so an adapter put into it is one for the pruned model, by its names; the teacher stays as it was loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from prune.common.errors import CheckpointError
from prune.families.table import is_transposed
from prune.models.loading import decoder_layers, text_config
from prune.models.walks.hooks import hooked
from prune.models.walks.sharing import over_same_weights
from prune.models.walks.walking import PassThrough

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_student(
    full: PreTrainedModel, config: Any, kept: Sequence[int], own: dict[str, torch.Tensor]
) -> PreTrainedModel:
    """The pruned model over the tensors of the full one.

    Args:
        full: loaded and frozen; unchanged by this.
        config: the pruned model's.
        kept: layer i of the pruned model is layer kept[i] of the full one.
        own: what the pruned model holds other than the full one: name -> values in the checkpoint's layout. Each is
            kept beside the full model's, quantised as that is.

    Raises:
        CheckpointError: `own` names what the model does not have.
    """
    student = over_same_weights(full, config, kept)
    for name, values in own.items():
        _put(student, name, values)
    return student


def _put(student: PreTrainedModel, name: str, values: torch.Tensor) -> None:
    named = dict(student.named_parameters(remove_duplicate=False))
    prefix = f"{student.base_model_prefix}."
    found = next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in named), None)
    if found is None:
        raise CheckpointError(
            f"the checkpoint's tensor {name} was changed since the cut, and the model has none so named"
        )
    old, transposed = named[found], is_transposed(student.config.model_type)
    for module in list(student.modules()):
        for own_name, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[own_name] = _like(module, old, values.to(student.dtype), transposed)


def _like(module: Any, old: Any, values: torch.Tensor, transposed: bool) -> torch.nn.Parameter:
    """`values`, in the dtype the model computes in, as the parameter `old` would hold them: quantised as it is."""
    kind = type(old).__name__
    if kind not in ("Params4bit", "Int8Params"):
        return torch.nn.Parameter(values.to(old.device, old.dtype), requires_grad=False)
    from bitsandbytes import MatmulLtState
    from bitsandbytes.nn import Int8Params, Params4bit

    matrix = (values.T if transposed else values).contiguous()
    if kind == "Params4bit":
        same = ("blocksize", "compress_statistics", "quant_type", "quant_storage")
        alike = {name: getattr(old, name) for name in same}
        return Params4bit(matrix, requires_grad=False, **alike, module=module).to(old.device)
    state = MatmulLtState()
    for name in ("threshold", "has_fp16_weights", "use_pool"):
        setattr(state, name, getattr(module.state, name))
    module.state = state
    return Int8Params(matrix, requires_grad=False, has_fp16_weights=False).to(old.device)


def started_at(
    decoder: torch.nn.Module, layers: torch.nn.ModuleList, given: torch.Tensor, first: int, parts: int
) -> Any:
    """The decoder as it would go on from `given`, (B, T, d), the input of layer `first`: a shell, nothing is copied.

    Args:
        parts: see `answer_parts`.
    """
    answer = (given, *[None] * (parts - 1)) if parts else given
    rest = torch.nn.ModuleList()
    rest._modules = {
        name: PassThrough(layer, lambda *_, **__: answer) if index < first else layer
        for index, (name, layer) in enumerate(layers._modules.items())
        if layer is not None
    }
    return _shell(decoder, layers, rest)


def _shell(root: torch.nn.Module, old: torch.nn.Module, new: torch.nn.Module) -> torch.nn.Module:
    """A shallow copy of `root` in which `new` stands for `old`; all other modules are the same ones."""
    twin = copy.copy(root)
    twin._modules = dict(root._modules)
    for name, child in root._modules.items():
        if child is old:
            twin._modules[name] = new
            return twin
        if child is not None and any(module is old for module in child.modules()):
            twin._modules[name] = _shell(child, old, new)
            return twin
    raise ValueError("the list of layers is no part of the decoder")


def watching(layers: torch.nn.ModuleList, inputs: dict[int, Any], outputs: dict[int, Any]) -> Any:
    """While it lasts, keep the hidden state that enters the layers named in `inputs`, and leaves those in `outputs`.

    The dictionaries' values are replaced by (B, T, d) states.
    """
    kept = [{layers[layer]: partial(states.__setitem__, layer) for layer in states} for states in (inputs, outputs)]
    return hooked(*kept)


@torch.no_grad()
def answer_parts(model: PreTrainedModel) -> int:
    """How the model's layers answer: 0 if with a tensor, else with a tuple of so many parts, the state first."""
    found: list[Any] = []
    handle = decoder_layers(model)[0].register_forward_hook(lambda _, __, answer: found.append(answer))
    try:
        probe = torch.arange(4, device=model.device)[None] % text_config(model.config).vocab_size
        model.get_decoder()(input_ids=probe, use_cache=False)
    finally:
        handle.remove()
    return len(found[0]) if isinstance(found[0], tuple) else 0
