"""The LoRA adapter itself: put onto a model, saved, loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heal.models.targets import Targets, check_rank
from prune.checkpoint.companions import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from prune.common.errors import RegrowthError
from prune.models.precision import multiplies_bfloat16

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def add_adapter(
    model: PreTrainedModel, targets: Targets, *, rank: int, alpha: float, dropout: float, base: str
) -> PeftModel:
    """Wrap the model with a fresh LoRA adapter (B = 0, so nothing changes yet); its weights are fp32.

    Layers below the first adapter run without a graph, checkpointing or not.

    Args:
        base: what the adapter names as its base model: a hub id or a folder.

    Raises:
        UsageError: a rank under 1 or above a matrix's smaller side, or a dropout outside [0, 1).
    """
    check_rank(targets, rank, dropout)
    from peft import LoraConfig, get_peft_model

    if targets.first:  # transformers has the embeddings give a graph wherever it checkpoints; below, none is needed
        model.enable_input_require_grads = lambda: None
    some = {"layers_to_transform": list(targets.layers), "layers_pattern": targets.listed} if targets.first else {}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets.paths),
        task_type="CAUSAL_LM",
        **some,
    )
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    reached = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in adapted.named_modules()
        if name.endswith(".lora_A.default")
    }
    if reached != set(targets.modules):
        raise RegrowthError(f"peft adapted other modules than planned: {sorted(reached ^ set(targets.modules))[:4]}")
    return adapted


def adapter_dtype(asked: str, *, device: str, compute: torch.dtype) -> torch.dtype:
    """What an adapter's products are in: float32 or bfloat16. Its weights are fp32 all the same.

    `auto` is bfloat16 on a GPU whose base computes in it, and has the products itself: an adapter that computes in
    float32 beside it takes a third of a step there (fp32 copies of each input, and products at a tenth of the speed).
    Elsewhere it is float32.

    Args:
        asked: auto, float32 or bfloat16.
        compute: what the base computes in.
    """
    if asked == "auto":
        native = device.startswith("cuda") and compute == torch.bfloat16 and multiplies_bfloat16(device)
        return torch.bfloat16 if native else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[asked]


def compute_in(adapted: PeftModel, dtype: torch.dtype) -> None:
    """Let the adapter multiply in `dtype`. Its weights stay fp32: so do their gradients, and what is saved.

    peft casts the input of an adapter to the dtype of the adapter's weights. That is switched off, by the attribute
    that `peft.helpers.disable_input_dtype_casting` sets. Each of the two matrices casts what it multiplies. Autocast
    round a layer would do so too, but it would also change the dtype of a quantised base.
    """
    if dtype == torch.float32:
        return
    for layer in list(adapted.modules()):
        if isinstance(getattr(layer, "lora_A", None), torch.nn.ModuleDict):
            layer.cast_input_dtype_enabled = False
            for half in (layer.lora_A, layer.lora_B):
                for name, matrix in list(half.items()):
                    half[name] = _Narrow(matrix, dtype)


class _Narrow(torch.nn.Linear):
    """One matrix of an adapter, the same parameter, cast to `compute` where it is multiplied."""

    def __init__(self, matrix: torch.nn.Linear, compute: torch.dtype) -> None:
        super().__init__(matrix.in_features, matrix.out_features, bias=False, device="meta")
        self.weight, self.compute = matrix.weight, compute

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(input.to(self.compute), self.weight.to(self.compute))


def checkpoint_activations(adapted: PeftModel) -> None:
    """Keep one activation a layer for the backward pass, and compute the rest anew there."""
    enable = getattr(adapted, "activation_checkpointing_enable", None)  # its name since transformers 5.23
    (enable or adapted.gradient_checkpointing_enable)({"use_reentrant": False})


def save_adapter(adapted: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors, as `save_pretrained` does.

    Args:
        weights: the model's state, gathered, where FSDP has it in shards: peft finds no adapter by the names that
            FSDP gives to modules, and would write an empty file.
    """
    from safetensors import SafetensorError

    try:
        _save(adapted, folder, weights)
    except SafetensorError as error:  # a full disk, in other words than the system's
        raise RegrowthError(f"the adapter cannot be written to {folder} ({error}); is there room?") from error
    mode = (folder / ADAPTER_CONFIG).stat().st_mode & 0o777
    (folder / ADAPTER_WEIGHTS).chmod(mode)  # safetensors writes for its owner alone


def _save(adapted: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None) -> None:
    if weights is None:
        adapted.save_pretrained(str(folder), save_embedding_layers=False)  # else it asks the hub for the vocabulary
        (folder / "README.md").unlink(missing_ok=True)  # peft's own card is an empty form
        return
    from safetensors.torch import save_file

    adapter = {name.replace(".default.", "."): w.cpu().contiguous() for name, w in weights.items() if ".lora_" in name}
    if not adapter:
        raise RegrowthError("the gathered weights hold no adapter; nothing was saved")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    replace(adapted.peft_config["default"], inference_mode=True).save_pretrained(str(folder))


def load_adapter(adapted: PeftModel, folder: Path) -> None:
    """Put the weights that `save_adapter` wrote into a model that is not in shards yet."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(adapted, load_file(folder / ADAPTER_WEIGHTS))
