"""Which projections get a LoRA adapter, found from the model's structure, and the adapter itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prune.errors import RegrowthError, UsageError
from prune.models import decoder_layers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ROLES = ("feed-forward", "all")

_ATTENTION = re.compile(r"attn|attention|mixer|mamba")
_FEED_FORWARD = re.compile(r"(mlp|ffn?|feed_?forward|block_sparse_moe|moe|experts?|shared_experts?)(\.|$)")
_BARE = {"fc1", "fc2", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}  # directly under the layer, as in OPT
_ROUTERS = {"gate", "router", "shared_expert_gate"}


@dataclass(frozen=True)
class Targets:
    """The adapted projections. `paths` are relative to a decoder layer; `modules` are full names in the model."""

    role: str
    paths: tuple[str, ...]
    modules: tuple[str, ...]
    smallest: int  # the least of all in and out widths: no rank may be above it


def find_targets(model: PreTrainedModel, role: str = "feed-forward") -> Targets:
    """The linear modules of the decoder layers that play `role`.

    `feed-forward`: those of the feed-forward part, without routers: gate/up/down_proj (Llama, Mistral, Qwen2, Gemma),
    fc1/fc2 (Phi), mlp.c_fc/mlp.c_proj (GPT-2), dense_h_to_4h/dense_4h_to_h (GPT-NeoX), w1/w2/c_proj (Qwen).
    `all`: those of the attention too.

    Raises:
        UsageError: another role, or the model has no such projection.
    """
    if role not in ROLES:
        raise UsageError(f"--targets {role} is unknown; take {' or '.join(ROLES)}")
    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    found: dict[str, Any] = {}
    for index, layer in enumerate(layers):
        for path, module in layer.named_modules():
            if _is_linear(module) and path.rpartition(".")[2] not in _ROUTERS and _plays(role, path):
                found[f"{prefix}.{index}.{path}"] = module
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no linear projection for --targets {role}; its layers may keep them fused"
        )
    paths = tuple(dict.fromkeys(re.sub(rf"^{re.escape(prefix)}\.\d+\.", "", name) for name in found))
    smallest = min(min(_widths(module)) for module in found.values())
    return Targets(role, paths, tuple(found), smallest)


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

    Args:
        base: what the adapter names as its base model: a hub id or a folder.

    Raises:
        UsageError: a rank under 1 or above a matrix's smaller side, or a dropout outside [0, 1).
    """
    check_rank(targets, rank, dropout)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets.paths), task_type="CAUSAL_LM"
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


def _plays(role: str, path: str) -> bool:
    if role == "all":
        return True
    if _ATTENTION.search(path):
        return False
    return bool(_FEED_FORWARD.match(path)) or path in _BARE


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)  # bitsandbytes' 4-bit layers are nn.Linear too


def _widths(module: Any) -> tuple[int, int]:
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    rows, columns = module.weight.shape  # Conv1D
    return rows, columns
