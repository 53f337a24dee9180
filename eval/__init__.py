"""Domains, questions, scores, statistics and reports."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "compare": "eval.comparison",
    "prepare": "eval.preparation",
    "report": "eval.reporting",
    "run": "eval.running",
    "sweep": "eval.sweeping",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # lazy: importing the room must not import torch
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
