"""What a sweep measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.sweeps.plan import SweepPlan

if TYPE_CHECKING:
    from eval.sweeps.scores import TaskScores


FORMAT = "regrowth.sweep/1"


@dataclass(frozen=True)
class Sweep:
    """What a sweep measured: the document of sweep.json, and each task's scores by variant and question."""

    plan: SweepPlan
    document: dict[str, Any]
    tasks: tuple[TaskScores, ...]
    costs: dict[str, Any]
