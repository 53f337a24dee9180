"""A model that FSDP will put in shards: it waits in its files, and is read and quantised as its turn comes.

FSDP takes up a model one unit at a time: it moves a decoder layer to the device, keeps this process's share of it, and
frees the rest. transformers, asked for 4 bits, would first quantise the whole model onto the device, in every process;
its own remedy, `fsdp_cpu_ram_efficient_loading`, leaves quantised models out. Here the weights are mapped from their
files, in 16 bits. bitsandbytes quantises a matrix when it is moved, so FSDP's move quantises it. So a device holds its
share and one layer, and the memory of the machine holds no copy where the files are in the dtype that is computed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from prune.checkpoint.source import Source
from prune.models.loading import load_model

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel


def load_waiting(
    source: Source, *, compute: torch.dtype, quantisation: BitsAndBytesConfig, attention: str = "auto"
) -> PreTrainedModel:
    """The model on the CPU, its linear layers to be in 4 bits from when they are moved to a device.

    The same layers are quantised, and to the same values, as by transformers.

    Args:
        compute: dtype of all else, and that from which matrices are quantised.
        quantisation: in 4 bits.
        attention: see `load_model`.

    Raises:
        CheckpointError: see `load_model`.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers.integrations import replace_with_bnb_linear
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers import AutoHfQuantizer

    model: Any = load_model(source, dtype=compute, device="cpu", attention=attention)
    quantizer = AutoHfQuantizer.from_config(quantisation, pre_quantized=False)
    spared = quantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    plain = dict(model.named_modules())
    replace_with_bnb_linear(model, modules_to_not_convert=spared, quantization_config=quantisation)
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weight = plain[name].weight.data
            matrix = weight.T if isinstance(plain[name], Conv1D) else weight
            module.weight = Params4bit(matrix, requires_grad=False, **vars(module.weight))
            module.bias = plain[name].bias
            module.support_avx512bf16_for_cpu = False  # see `prune.models.loading`
    model.hf_quantizer, model.config.quantization_config = quantizer, quantisation
    model.quantization_method = quantisation.quant_method
    model.is_quantized = model.is_loaded_in_4bit = True
    loaded: PreTrainedModel = model.eval()
    return loaded
