"""From log-likelihoods to what each question costs without each block. Arithmetic on arrays; no models or files.

`fast` and `using` are the NLL of the right answer, in bits. `writing` and `control` are bits per UTF-8 byte of a
rationale: the question's own, and another's. `informed` is what the question tells of its own rationale: that
rationale's bits per byte beside another question, less those beside its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from eval.depth.plan import DepthTask
from eval.questions.schema import cluster_of
from prune.common.errors import RegrowthError

Floats = NDArray[np.float64]

UNITS = {
    "fast": "bits per answer",
    "using": "bits per answer",
    "writing": "bits per byte",
    "control": "bits per byte",
    "informed": "bits per byte",
}
LOSS = {name: -1.0 if name == "informed" else 1.0 for name in UNITS}  # sign of the change that is a loss


@dataclass(frozen=True)
class TaskMeasures:
    """What V variants gave on the n questions of a task.

    Attributes:
        values: measure -> (V, n), the full model first; NaN for a question that the measure is not of.
    """

    task: DepthTask
    values: dict[str, Floats]

    @property
    def name(self) -> str:
        """Domain and protocol."""
        return f"{self.task.plan.domain} {self.task.plan.protocol}"

    @cached_property
    def units(self) -> list[str]:
        """What is independent: (n,), a passage's name where questions share one, else the question's own."""
        return [cluster_of(question) for question in self.task.plan.questions]

    def there(self, measure: str) -> NDArray[np.bool_]:
        """Which questions a measure is of, (n,)."""
        if measure not in self.values:
            return np.zeros(self.task.n, dtype=bool)
        return ~np.isnan(self.values[measure][0])

    def measured(self, measure: str) -> bool:
        """Whether there are questions of two passages at least, so that there is an interval."""
        there = self.there(measure)
        return len({unit for unit, here in zip(self.units, there, strict=True) if here}) >= 2

    def costs(self, measure: str) -> Floats:
        """Bits lost without each block, (V - 1, n); NaN as in `values`."""
        values = self.values[measure]
        return LOSS[measure] * (values[1:] - values[:1])


def task_measures(task: DepthTask, numbers: dict[str, np.ndarray], logprobs: Floats) -> TaskMeasures:
    """The measures of a task.

    Args:
        numbers: as of `eval.depth.requests.DepthRequests`.
        logprobs: log p(continuation | context) in nats, (V, requests).

    Raises:
        RegrowthError: one is no finite number.
    """
    values: dict[str, Floats] = {}
    for measure, places in numbers.items():
        bits = np.full((len(logprobs), task.n), np.nan)
        asked = places >= 0
        bits[:, asked] = -logprobs[:, places[asked]] / math.log(2)
        _check_finite(bits[:, asked], measure, task)
        if measure in ("writing", "control"):
            of = np.arange(task.n) if measure == "writing" else task.partners
            bits[:, asked] /= _bytes(task, of[asked])
        values[measure] = bits
    if "writing" in values and "control" in values:
        values["informed"] = _informed(task, values["writing"], values["control"])
    return TaskMeasures(task, values)


def _check_finite(bits: Floats, measure: str, task: DepthTask) -> None:
    if not np.isfinite(bits).all():
        raise RegrowthError(
            f"the model gives no finite log-likelihood ({measure}) on a question of {task.plan.domain}; "
            "try --dtype float32, or check the checkpoint"
        )


def _bytes(task: DepthTask, of: Sequence[int] | np.ndarray) -> Floats:
    return np.array([len((task.plan.questions[int(i)].rationale or "").encode()) for i in of], dtype=np.float64)


def _informed(task: DepthTask, writing: Floats, control: Floats) -> Floats:
    """Question by question, of its own rationale: beside the other question less beside its own."""
    informed = np.full_like(writing, np.nan)
    for number, partner in enumerate(task.partners):
        if partner >= 0:
            informed[:, partner] = control[:, number] - writing[:, partner]
    return informed
