"""How to train back what a cut took: adapters, training, merging."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "DistillSettings": "heal.settings",
    "adapter_only": "heal.shipping",
    "HealResult": "heal.training",
    "Settings": "heal.settings",
    "PatchResult": "heal.patching",
    "PatchSettings": "heal.settings",
    "TextSource": "heal.data",
    "distill": "heal.distilling",
    "held_out_loss": "heal.measuring",
    "merge": "heal.merging",
    "patch": "heal.patching",
    "plan_budget": "heal.budgeting",
    "qlora": "heal.training",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # lazy: importing the room must not import torch
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
