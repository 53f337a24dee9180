"""A model asked a part of its questions a second time, in other batches: by that its noise floor is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from eval.asking.trees import batch_tokens
from eval.runs.needles import DrawnNeedles
from eval.runs.samples import RunResult
from eval.settings import ComparisonSettings

WINDOWS = 16  # of prose, at most
_VLLM_ROWS = 64  # requests at a time on vLLM, at most


@dataclass(frozen=True)
class Again:
    """How much is asked a second time, beside `--limit` questions: needle `trials` and `windows` of prose, at most."""

    trials: int
    windows: int = WINDOWS

    def of_prose(self, drawn: Mapping[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        """The first windows of each text."""
        return {name: windows[: self.windows] for name, windows in drawn.items()}

    def of_needles(self, drawn: DrawnNeedles) -> DrawnNeedles:
        """All needles, at as few places of the text as `trials` allow."""
        places = sorted({(trial.length, trial.depth) for trial in drawn.trials})
        step = -(-len(drawn.trials) // self.trials)
        kept = set(places[::step])
        return replace(drawn, trials=tuple(t for t in drawn.trials if (t.length, t.depth) in kept))


def second_settings(settings: ComparisonSettings, first: RunResult) -> ComparisonSettings:
    """The settings of the second asking: fewer questions, batches of another size, --noise-dtype."""
    rows = int(first.settings["batch_size"])
    few = settings.noise_limit if settings.limit is None else min(settings.limit, settings.noise_limit)
    changed: dict[str, Any] = {"limit": few, "dtype": settings.noise_dtype or settings.dtype}
    if settings.backend == "vllm":
        sequences = min(_VLLM_ROWS, rows // 2) if rows > 1 else 2
        changed["backend_args"] = tuple((dict(settings.backend_args) | {"max_num_seqs": sequences}).items())
    else:
        changed["batch_size"] = other_size(rows)
    return replace(settings, tasks=(), **changed)


def other_size(rows: int) -> int:
    """Half the batch size, or where trees would be packed as before by that, the least larger one that changes them."""
    if rows > 1 and batch_tokens(rows // 2) != batch_tokens(rows):
        return rows // 2
    return next(size for size in count(rows + 1) if batch_tokens(size) != batch_tokens(rows))
