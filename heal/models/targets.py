"""Which projections get a LoRA adapter, found from the model's structure and their names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.common.errors import UsageError
from prune.models.loading import decoder_layers
from prune.models.memory.shapes import is_feed_forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


ROLES = ("feed-forward", "all")
ROUTERS = {"gate", "router", "shared_expert_gate"}  # they choose experts, and are never adapted
AFTER_CUT = "after-cut"


def parse_targets(targets: str) -> tuple[str, bool]:
    """Role, and whether only layers after the cut are adapted: `ROLE`, `ROLE:after-cut`, or `after-cut` for all there.

    Raises:
        UsageError: another role or place.
    """
    role, _, where = (f"all:{AFTER_CUT}" if targets == AFTER_CUT else targets).partition(":")
    if role not in ROLES or where not in ("", AFTER_CUT):
        raise UsageError(
            f"--targets {targets} is unknown; use {', '.join(ROLES)}, after-cut, or both, as in feed-forward:after-cut"
        )
    return role, bool(where)


def plays(role: str, path: str) -> bool:
    """Whether an adapter for `role` goes onto the linear module at `path` of a layer."""
    if path.rpartition(".")[2] in ROUTERS:
        return False
    return role == "all" or is_feed_forward(path)


@dataclass(frozen=True)
class Targets:
    """The adapted projections. `paths` are relative to a decoder layer; `modules` are full names in the model.

    `layers` are those that hold them, 0-based, rising, and `listed` is the name of the list that the layers stand in.
    """

    paths: tuple[str, ...]
    modules: tuple[str, ...]
    layers: tuple[int, ...]
    listed: str
    smallest: int  # the least of all in and out widths: no rank may be above it

    @property
    def first(self) -> int:
        """The lowest layer with an adapter: below it nothing is trained, and no graph is needed."""
        return self.layers[0]


def find_targets(model: PreTrainedModel, targets: str, *, cut: int | None = None) -> Targets:
    """The linear modules of the decoder layers that play a role, in all layers or in those after the cut.

    `targets` is `ROLE`, `ROLE:after-cut`, or `after-cut`, which is `all:after-cut`.

    `feed-forward`: those of the feed-forward part, without routers: gate/up/down_proj (Llama, Mistral, Qwen2, Gemma),
    fc1/fc2 (Phi), mlp.c_fc/mlp.c_proj (GPT-2), dense_h_to_4h/dense_4h_to_h (GPT-NeoX), w1/w2/c_proj (Qwen).
    `all`: those of the attention too.

    Args:
        cut: the first layer after the cut (`heal.lineage.first_after_cut`); needed for `after-cut` alone.

    Raises:
        UsageError: another role or place, the model has no such projection, or no layer stands after the cut.
    """
    role, after_cut = parse_targets(targets)
    if after_cut and cut is None:
        raise UsageError(
            f"--targets {targets}: the model has no prune_plan.json to tell where it was cut; use {' or '.join(ROLES)}"
        )
    first = (cut or 0) if after_cut else 0
    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    adapted: dict[str, Any] = {}
    if first >= len(layers):
        raise UsageError(
            f"--targets {targets}: the cut took the last layers, so none stands after it; use {' or '.join(ROLES)}"
        )
    used: list[int] = []
    for index, layer in enumerate(layers):
        if index < first:
            continue
        for path, module in layer.named_modules():
            if _is_linear(module) and plays(role, path):
                adapted[f"{prefix}.{index}.{path}"] = module
                used.append(index)
    if not adapted:
        raise UsageError(
            f"{type(model).__name__} has no linear projection for --targets {targets}; its layers may keep them fused"
        )
    paths = tuple(dict.fromkeys(re.sub(rf"^{re.escape(prefix)}\.\d+\.", "", name) for name in adapted))
    smallest = min(min(_widths(module)) for module in adapted.values())
    return Targets(paths, tuple(adapted), tuple(dict.fromkeys(used)), prefix.rpartition(".")[2], smallest)


def check_rank(targets: Targets, rank: int, dropout: float) -> None:
    """Raise UsageError for a rank under 1 or above a matrix's smaller side, or a dropout outside [0, 1)."""
    if not 1 <= rank <= targets.smallest:
        raise UsageError(f"--rank {rank} does not fit: the smallest adapted matrix has a side of {targets.smallest}")
    if not 0 <= dropout < 1:
        raise UsageError(f"--dropout {dropout} is not in [0, 1)")


def _is_linear(module: torch.nn.Module) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)  # bitsandbytes' 4-bit layers are nn.Linear too


def _widths(module: Any) -> tuple[int, int]:
    import torch

    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    rows, columns = module.weight.shape  # Conv1D
    return rows, columns
