"""A model asked a part of its questions a second time, in other batches: by that its noise floor is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eval.runs.needles import DrawnNeedles
from eval.runs.samples import RunResult
from eval.settings import ComparisonSettings

WINDOWS = 16  # of prose, at most
_VLLM_ROWS = 64  # requests at a time on vLLM, whose own default is more


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
    """The settings of the second asking: fewer questions, half the batch size (2 for 1), --noise-dtype."""
    rows = int(first.settings["batch_size"])
    rows = max(1, rows // 2) if rows > 1 else 2
    few = settings.noise_limit if settings.limit is None else min(settings.limit, settings.noise_limit)
    changed: dict[str, Any] = {"limit": few, "batch_size": rows, "dtype": settings.noise_dtype or settings.dtype}
    if settings.backend == "vllm":
        engine = dict(settings.backend_args)
        changed["backend_args"] = tuple((engine | {"max_num_seqs": _fewer(engine.get("max_num_seqs"))}).items())
    return replace(settings, tasks=(), **changed)


def _fewer(sequences: int | None) -> int:
    return _VLLM_ROWS if sequences is None else max(1, sequences // 2)
