"""A model that is loaded whole to be asked: as it is stored or in NF4, on one device or over several GPUs.

NF4 is `prune.models.nf4`'s, as `heal` trains on: an adapter that was fitted to the quantised weights is judged on the
same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune.checkpoint.headers import read_checkpoint
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError
from prune.models.loading import load_model, read_config, stored_dtype
from prune.models.nf4 import quantisation

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

AS_STORED, NF4 = "as stored", "nf4"  # which weights are judged, by the names that the artefacts have for them


def check_4bit(device: str) -> None:
    """Refuse a device that bitsandbytes has no NF4 for.

    Args:
        device: as `prune.models.loading.pick_device` gives it.

    Raises:
        RegrowthError: it has none.
    """
    if device.startswith("mps"):
        raise RegrowthError("--load-in-4bit does not run on this device; use --device cpu, or leave it out")


def load_whole(
    source: Source,
    *,
    dtype: torch.dtype | str,
    device: str,
    load_in_4bit: bool = False,
    spread: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal language model in eval mode, its projections in NF4 if asked, spread over all GPUs if asked.

    Args:
        dtype: of what is not quantised, and of products; "auto" is the checkpoint's own, as without NF4.
        spread: layer after layer, see `prune.models.spread`.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        CheckpointError: it cannot be loaded, or its files are quantised already.
        RegrowthError: no room on the GPUs together.
    """
    if not load_in_4bit and not spread:
        return load_model(source, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    import torch

    config = read_config(source.folder, source.name, trust_remote_code=trust_remote_code)
    compute = dtype if isinstance(dtype, torch.dtype) else stored_dtype(read_checkpoint(source.folder), config)
    options: dict[str, Any] = {"device_map": {"": device}}
    if spread:
        from prune.models.spread import place_layers

        bits, fewer = (4, "a smaller model") if load_in_4bit else (16, "--load-in-4bit")
        how: dict[str, Any] = {"fewer": fewer, "trust_remote_code": trust_remote_code}
        options["device_map"] = place_layers(source, bits=bits, dtype=compute, **how)
    if load_in_4bit:
        _check_stored(source, config)
        options["quantization_config"] = quantisation(compute)
    return load_model(source, dtype=compute, device=device, trust_remote_code=trust_remote_code, **options)


def check_stored(source: Source) -> None:
    """Refuse NF4 for a model whose files are quantised already.

    Raises:
        CheckpointError: they are, or its config cannot be read.
    """
    _check_stored(source, read_config(source.folder, source.name))


def _check_stored(source: Source, config: Any) -> None:
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(f"{source.name} is stored quantised already; leave out --load-in-4bit")
