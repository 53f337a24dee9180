"""NF4 by bitsandbytes, the one way in which models have it here: with scales that are quantised too.

So a scan, an adapter that is trained, a merge and an evaluation in 4 bits all stand on the same weights. Those are also
what `prune.models.memory.footprint` counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

BLOCK, DOUBLE = 64, 256  # weights per scale, and scales per scale of their own: bitsandbytes' defaults, and QLoRA's
_KIND, _DOUBLED = "nf4", True
# One tensor's, as bitsandbytes' `quantize_4bit` and `Params4bit` take it.
TENSOR: dict[str, Any] = {"blocksize": BLOCK, "compress_statistics": _DOUBLED, "quant_type": _KIND}


def quantisation(
    compute: torch.dtype, *, bits: int = 4, storage: torch.dtype | str | None = None
) -> BitsAndBytesConfig:
    """A whole model's, as `from_pretrained` takes it: NF4 (bits 4), or LLM.int8() (8).

    Args:
        compute: what is multiplied in.
        storage: the dtype that NF4 is packed into; bytes if None.
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type=_KIND,
        bnb_4bit_use_double_quant=_DOUBLED,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_quant_storage=storage or "uint8",
    )
