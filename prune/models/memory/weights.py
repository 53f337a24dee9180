"""Bytes of a model's weights, layer by layer, as transformers holds them: as stored, in 8 bits, or in 4.

Counted on a model without values (`prune.models.memory.skeleton`). For 8 and 4 bits transformers' own quantiser says
which matrices bitsandbytes takes: all linear layers but the head. The rest is in 16 bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.models.loading import decoder_layers
from prune.models.memory.footprint import scale_bytes
from prune.models.memory.shapes import HEADS, Linear
from prune.models.nf4 import quantisation

if TYPE_CHECKING:
    from prune.checkpoint.headers import Checkpoint


@dataclass(frozen=True)
class Weights:
    """Bytes of parameters and buffers.

    Attributes:
        layers: of each decoder layer.
        outside: of embeddings, final norm, head, and all else.
        largest: values of the largest matrix that is quantised; 0 where none is. largest_inputs, largest_outputs: its
            sides.
    """

    layers: tuple[int, ...]
    outside: int
    largest: int = 0
    largest_inputs: int = 0
    largest_outputs: int = 0


def loaded_weights(model: Any, bits: int) -> Weights:
    """Bytes of a model as it is loaded in so many bits; 16 stands for its own dtype.

    Args:
        model: without values; its linear layers are replaced by bitsandbytes' for fewer than 16 bits.
    """
    value = model.dtype.itemsize
    wide = _kept_wide(model)
    if bits < 16:
        _quantise(model, bits)
    places = {id(part): number for number, layer in enumerate(decoder_layers(model)) for part in layer.modules()}
    layers, outside, largest = [0] * len(decoder_layers(model)), 0, (0, 0, 0)
    seen: set[int] = set()
    for name, module in model.named_modules():
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            size = tensor.nbytes
            if key == "weight" and _is_quantised(module):
                linear = Linear(name, module.in_features, module.out_features, False)
                values = linear.values
                size = (values if bits == 8 else -(-values // 2)) + scale_bytes(linear, bits)
                largest = max(largest, (values, linear.inputs, linear.outputs))
            elif _is_quantised(module):
                size = value * tensor.numel()  # a bias, which the replaced module has in fp32 until it is loaded
            elif wide(f"{name}.{key}") and tensor.is_floating_point():
                size = 4 * tensor.numel()
            if (number := places.get(id(module))) is None:
                outside += size
            else:
                layers[number] += size
    return Weights(tuple(layers), outside, *largest)


def packed_weights(checkpoint: Checkpoint, layer_of: Callable[[str], int | None], layers: int) -> Weights:
    """Bytes of a checkpoint whose weights are stored quantised: those of its tensors, a tied head once.

    Args:
        layer_of: from a tensor's name to its layer, None outside the layers.
        layers: L.
    """
    inside, outside = [0] * layers, 0
    tied = bool(checkpoint.config.get("tie_word_embeddings", False))
    for tensor in checkpoint.tensors():
        layer = layer_of(tensor.name)
        if layer is None:
            outside += 0 if tied and tensor.name.endswith(HEADS) else tensor.size
        elif layer < layers:
            inside[layer] += tensor.size
    return Weights(tuple(inside), outside)


def _quantise(model: Any, bits: int) -> None:
    import torch
    from transformers.quantizers import AutoHfQuantizer

    quantiser = AutoHfQuantizer.from_config(quantisation(torch.bfloat16, bits=bits))
    quantiser.preprocess_model(model, device_map=None)


def _is_quantised(module: Any) -> bool:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return isinstance(module, Linear4bit | Linear8bitLt)


def _kept_wide(model: Any) -> Callable[[str], bool]:
    """Whether a parameter of that name stays in fp32 whatever the model's dtype, by its class."""
    import torch

    names = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if model.dtype == torch.float16:
        names |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if not names or model.dtype == torch.float32:
        return lambda name: False
    pattern = re.compile("|".join(re.escape(part).replace(r"\*", ".*") for part in sorted(names)))
    return lambda name: pattern.search(name) is not None
