"""Domains, questions, scores, statistics and reports.

`questions` -> `asking` (with `answers`) gives samples; the files beside this one turn them into the bill; `thinking`,
`sweeps` and `reports` each know one more thing. A room's imports of other rooms run one way:
`sweeps -> reports -> asking -> questions -> answers`, and `thinking -> asking`.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {  # no room may have one of these names: once imported, it would stand where the function should
    "compare": "eval.comparison",
    "prepare": "eval.questions.preparation",
    "report": "eval.reports.page",
    "run": "eval.runs.run",
    "sweep": "eval.sweeps.run",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # lazy: importing the room must not import torch
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
