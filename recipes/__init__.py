"""The order scan, cut, heal, compare, as YAML and one small runner."""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "load_recipe": "recipes.schema",
    "run_recipe": "recipes.runner",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # lazy: importing the folder must not import torch
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
