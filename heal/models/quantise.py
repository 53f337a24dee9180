"""NF4 and int8 by bitsandbytes: how a model is loaded for training, and what exactly it then computes.

Products are in bfloat16, or in float32 on a device that has none of the former (`compute_dtype`): many CPUs, and GPUs
older than 2020 (T4, V100, RTX 20). float16, which those GPUs do multiply, is refused: the gradient of a mean over
thousands of tokens is below its range, and would need scaling of the loss. Embeddings, norms and head stay in the same
dtype as products. peft's `prepare_model_for_kbit_training` is not used: it casts them all to fp32, which
costs more memory than 4 bits save on models with a large vocabulary (bitsandbytes#1569).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from heal.models.spread import carry_states
from heal.models.waiting import load_waiting
from heal.settings import BITS
from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError, UsageError
from prune.common.machine.processes import sharded
from prune.models.loading import load_model
from prune.models.nf4 import TENSOR, quantisation
from prune.models.precision import pick_dtype
from prune.models.spread import place_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INT8_THRESHOLD = 6.0  # of inputs that are not rounded to int8: transformers' default


def compute_dtype(dtype: str = "auto", *, device: str = "cpu") -> torch.dtype:
    """In what a frozen model computes: float32 or bfloat16; `auto` is bfloat16 where the device multiplies it.

    Raises:
        UsageError: another name.
    """
    compute = pick_dtype("fast" if dtype == "auto" else dtype, device=device)
    if compute == torch.float16:
        raise UsageError(
            f"--dtype {dtype} cannot be trained in: small gradients vanish in it; use auto, bfloat16 or float32"
        )
    assert isinstance(compute, torch.dtype)
    return compute


def load_frozen(
    source: Source, *, bits: int, device: str, dtype: str = "auto", attention: str = "auto", spread: bool = False
) -> PreTrainedModel:
    """Load a model to train adapters on, frozen: NF4 + double quantisation (bits 4), LLM.int8() (8) or as it is (16).

    Where FSDP will put it in shards it stays on the CPU, and cannot run before; see `heal.models.waiting`.

    Args:
        dtype: see `compute_dtype`.
        attention: see `prune.models.loading.load_model`.
        spread: over all GPUs, layer after layer; see `prune.models.spread`.

    Raises:
        UsageError: other bits.
        RegrowthError: bitsandbytes has no kernels for the device, or no room on the GPUs together.
    """
    if bits not in BITS:
        raise UsageError(f"--bits {bits} is unknown; use {' or '.join(map(str, BITS))}")
    compute = compute_dtype(dtype, device=device)
    places: dict[str, str] = place_layers(source, bits=bits, dtype=compute) if spread else {"": device}
    if bits == 16:
        options: dict[str, Any] = {"device_map": places} if spread else {}
        # FSDP moves it layer by layer
        where = "cpu" if sharded() else device
        model = load_model(source, dtype=compute, device=where, attention=attention, **options)
    else:
        if device == "mps":
            raise RegrowthError(f"{bits}-bit training does not run on this device; use --device cpu or --bits 16")
        # FSDP shards only floating-point weights, of one dtype each: it must see NF4 as what is beside it.
        config = quantisation(compute, bits=bits, storage=compute if sharded() else None)
        if sharded():
            model = load_waiting(source, compute=compute, quantisation=config, attention=attention)
        else:
            how: dict[str, Any] = {"quantization_config": config, "device_map": places}
            model = load_model(source, dtype=compute, attention=attention, **how)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if spread:
        carry_states(model)
    return model


def quantised_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that bitsandbytes holds in 4 or 8 bits: all linear layers but the head, attention too."""
    if getattr(model, "is_loaded_in_8bit", False):
        from bitsandbytes.nn import Linear8bitLt

        return [name for name, module in model.named_modules() if isinstance(module, Linear8bitLt)]
    if not getattr(model, "is_loaded_in_4bit", False):
        return []
    from bitsandbytes.nn import Linear4bit

    return [name for name, module in model.named_modules() if isinstance(module, Linear4bit)]


def quantised_twin(module: Any, *, bits: int) -> Any:
    """A linear module that bitsandbytes holds in 4 or 8 bits, as `load_frozen` has it, of one with its weights.

    Args:
        module: a Linear, or GPT-2's Conv1D, in the dtype and on the device of the products.
    """
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    weight, bias = module.weight.detach(), module.bias
    matrix = (weight if isinstance(module, torch.nn.Linear) else weight.T).contiguous()
    outputs, inputs = matrix.shape
    with torch.device("meta"):
        if bits == 4:
            twin = Linear4bit(inputs, outputs, bias is not None, matrix.dtype, quant_type=TENSOR["quant_type"])
        else:
            twin = Linear8bitLt(inputs, outputs, bias is not None, has_fp16_weights=False, threshold=_INT8_THRESHOLD)
    if bits == 4:
        held = Params4bit(matrix, **TENSOR, module=twin)
        twin.support_avx512bf16_for_cpu = False  # see `prune.models.loading`
    else:
        held = Int8Params(matrix, requires_grad=False, has_fp16_weights=False)
    twin.weight, twin.bias = held.to(matrix.device), bias
    return twin.eval()


def round_trip(weight: torch.Tensor, *, bits: int, compute: torch.dtype, transposed: bool = False) -> torch.Tensor:
    """The weight that a quantised layer really multiplies by, in fp32.

    4 bits: compute dtype -> NF4, double quantised -> compute dtype. 8 bits: compute dtype -> fp16 -> int8, a scale per
    output.

    Args:
        weight: (out, in), or (in, out) with `transposed` (GPT-2's Conv1D, which transformers turns before quantising).
    """
    from bitsandbytes import functional

    matrix = weight.to(compute)
    matrix = (matrix.T if transposed else matrix).contiguous()
    if bits == 8:
        packed, scale, _ = functional.int8_vectorwise_quant(matrix.to(torch.float16))
        restored = packed.float() * (scale.float().unsqueeze(1) / 127)
    else:
        packed, state = functional.quantize_4bit(matrix, **TENSOR)
        restored = functional.dequantize_4bit(packed, state).float()
    return restored.T.contiguous() if transposed else restored
