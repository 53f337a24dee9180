"""Which projections get a LoRA adapter, found from the model's structure, and the adapter itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from heal.models.roles import ROLES, plays
from prune.common.errors import RegrowthError, UsageError
from prune.models.loading import decoder_layers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

AFTER_CUT = "after-cut"


@dataclass(frozen=True)
class Targets:
    """The adapted projections. `paths` are relative to a decoder layer; `modules` are full names in the model.

    `layers` are those that hold them, 0-based, rising, and `listed` is the name of the list that the layers stand in.
    """

    role: str
    paths: tuple[str, ...]
    modules: tuple[str, ...]
    layers: tuple[int, ...]
    listed: str
    smallest: int  # the least of all in and out widths: no rank may be above it

    @property
    def first(self) -> int:
        """The lowest layer with an adapter: below it nothing is trained, and no graph is needed."""
        return self.layers[0]


def find_targets(model: PreTrainedModel, targets: str = "feed-forward", *, cut: int | None = None) -> Targets:
    """The linear modules of the decoder layers that play a role, in all layers or in those after the cut.

    `targets` is `ROLE`, `ROLE:after-cut`, or `after-cut`, which is `all:after-cut`.

    `feed-forward`: those of the feed-forward part, without routers: gate/up/down_proj (Llama, Mistral, Qwen2, Gemma),
    fc1/fc2 (Phi), mlp.c_fc/mlp.c_proj (GPT-2), dense_h_to_4h/dense_4h_to_h (GPT-NeoX), w1/w2/c_proj (Qwen).
    `all`: those of the attention too.

    Args:
        cut: the first layer after the cut (`heal.place.first_after_cut`); needed for `after-cut` alone.

    Raises:
        UsageError: another role or place, the model has no such projection, or no layer stands after the cut.
    """
    role, _, place = ("all:" + targets if targets == AFTER_CUT else targets).partition(":")
    if role not in ROLES or place not in ("", AFTER_CUT):
        raise UsageError(
            f"--targets {targets} is unknown; take {', '.join(ROLES)}, after-cut, or both, as in feed-forward:after-cut"
        )
    if place and cut is None:
        raise UsageError(f"--targets {targets}: the model has no prune_plan.json to tell where it was cut; name a role")
    first = (cut or 0) if place else 0
    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    found: dict[str, Any] = {}
    if first >= len(layers):
        raise UsageError(f"--targets {targets}: the cut took the last layers, so none stands after it; name a role")
    used: list[int] = []
    for index, layer in enumerate(layers):
        if index < first:
            continue
        for path, module in layer.named_modules():
            if _is_linear(module) and plays(role, path):
                found[f"{prefix}.{index}.{path}"] = module
                used.append(index)
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no linear projection for --targets {targets}; its layers may keep them fused"
        )
    paths = tuple(dict.fromkeys(re.sub(rf"^{re.escape(prefix)}\.\d+\.", "", name) for name in found))
    smallest = min(min(_widths(module)) for module in found.values())
    return Targets(targets, paths, tuple(found), tuple(dict.fromkeys(used)), prefix.rpartition(".")[2], smallest)


def check_rank(targets: Targets, rank: int, dropout: float) -> None:
    """Raise UsageError for a rank under 1 or above a matrix's smaller side, or a dropout outside [0, 1)."""
    if not 1 <= rank <= targets.smallest:
        raise UsageError(f"--rank {rank} does not fit: the smallest adapted matrix has a side of {targets.smallest}")
    if not 0 <= dropout < 1:
        raise UsageError(f"--dropout {dropout} is not in [0, 1)")


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
    weights_file = folder / "adapter_model.safetensors"  # which safetensors lets its owner alone read
    weights_file.chmod(
        (folder / "adapter_config.json").stat().st_mode & 0o777
    )  # safetensors writes for its owner alone


def _save(adapted: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None) -> None:
    if weights is None:
        adapted.save_pretrained(str(folder), save_embedding_layers=False)  # else it asks the hub for the vocabulary
        (folder / "README.md").unlink(missing_ok=True)  # peft's own card is an empty form
        return
    from safetensors.torch import save_file

    found = {name.replace(".default.", "."): w.cpu().contiguous() for name, w in weights.items() if ".lora_" in name}
    if not found:
        raise RegrowthError("the gathered weights hold no adapter; nothing was saved")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    replace(adapted.peft_config["default"], inference_mode=True).save_pretrained(str(folder))


def load_adapter(adapted: PeftModel, folder: Path) -> None:
    """Put the weights that `save_adapter` wrote into a model that is not in shards yet."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(adapted, load_file(folder / "adapter_model.safetensors"))


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)  # bitsandbytes' 4-bit layers are nn.Linear too


def _widths(module: Any) -> tuple[int, int]:
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    rows, columns = module.weight.shape  # Conv1D
    return rows, columns
