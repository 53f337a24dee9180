"""Where a model keeps its layers, how alike layer inputs are, which block to drop, and the cut itself."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Scan": "prune.scan_artefact",
    "CutPlan": "prune.cut_plan",
    "cut": "prune.surgery",
    "inspect_cut": "prune.inspection",
    "plan_cut": "prune.planning",
    "scan": "prune.scanning",
    "verify_cut": "prune.verification",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # lazy: importing the room must not import torch
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
