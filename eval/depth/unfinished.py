"""The work of an unfinished run of `evaluate depth`, kept beside its --out, from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.asking.walk import RouteAnswers
from eval.depth.writing import as_kept
from eval.runs.samples import Sample
from eval.sweeps import unfinished as sweeping
from prune.common.files.resume import Unfinished


class KeptWork:
    """Log-likelihoods and written answers that an interrupted run has left, and those of this run.

    Args:
        unfinished: the file; if None, nothing outlives the run.
        facts: what the work depends on, as far as no model tells it.

    Raises:
        RegrowthError: not such a file.
        UsageError: it is of a run with other facts.
    """

    def __init__(self, unfinished: Unfinished | None, facts: Mapping[str, Any]) -> None:
        self._unfinished, self._facts = unfinished, facts
        self.answers: RouteAnswers | None = None
        self.written: dict[str, list[Sample]] = {}
        self.restore()

    def restore(self, **more: Any) -> None:
        """Take up what was left; `more` are the facts that only the loaded model tells."""
        if self._unfinished is None:
            return
        left = self._unfinished.read({**self._facts, **more}, _restored)
        if left is not None:
            self.answers, self.written = left

    def keep(self, answers: RouteAnswers) -> None:
        """Write what is answered so far, not more often than every 20 seconds."""
        self.answers = answers
        if self._unfinished is not None and self._unfinished.due():
            self._write()

    def put(self, label: str, samples: list[Sample]) -> None:
        """Write a variant's answers: minutes of work each."""
        self.written[label] = samples
        if self._unfinished is not None:
            self._write()

    def _write(self) -> None:
        assert self._unfinished is not None
        assert self.answers is not None
        state, arrays = sweeping.as_kept(self.answers)
        written = {label: as_kept(samples) for label, samples in self.written.items()}
        self._unfinished.write({"answers": state, "written": written}, arrays)


def _restored(state: Any, arrays: Mapping[str, np.ndarray]) -> tuple[RouteAnswers, dict[str, list[Sample]]]:
    written = {label: [Sample(**row) for row in rows] for label, rows in state["written"].items()}
    return sweeping.restored(state["answers"], arrays), written
