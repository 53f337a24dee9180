"""What a sweep measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.billing.sweep import SweepRecord
from eval.sweeps.plan import SweepPlan
from eval.sweeps.scores import TaskScores
from prune.choosing.costs import Costs


@dataclass(frozen=True)
class Sweep:
    """What a sweep measured: what sweep.json and costs.json hold, and each task's scores by variant and question."""

    plan: SweepPlan
    document: SweepRecord
    tasks: tuple[TaskScores, ...]
    costs: Costs

    def to_json(self) -> dict[str, Any]:
        """The document that sweep.json holds."""
        return self.document.to_json()
