"""From a sweep's scores to what it reports: rows, curves, maps and costs. Arithmetic on arrays; no models or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from eval.asking.tasks import TaskPlan
from eval.billing.rows.bill import FEW
from eval.billing.statistics import (
    accuracy_difference,
    accuracy_of,
    flips,
    mcnemar_exact,
    mean_interval,
    paired_mean_difference,
    paired_ratio_difference,
    retained_above_chance,
    retained_interval,
)
from eval.billing.sweep import BlockMap, CurvePoint, HealedPoint, Scores, TaskCurve, VariantRow, VariantVersus
from eval.questions.schema import cluster_of
from eval.runs.samples import chosen_index
from eval.sweeps.plan import SweepPlan, Variant
from prune.common.errors import RegrowthError

_METRICS: tuple[str, ...] = ("answer_nll_bits", "acc", "acc_norm", "answer_greedy")
COST = "rise of answer NLL over the full model, bits per byte of the right answers, mean over the domain's protocols"
_NO_COST = "letters"  # its answers are a byte long, whatever they stand for


@dataclass(frozen=True)
class TaskScores:
    """What V variants answered to the n questions of one task, in the orders of the plan and of the task.

    nll: (V, n) float64, bits. correct, raw: (V, n) bool, for choices. greedy: (V, n) bool, for open questions.
    response: (V, n) int64, the chosen index, for choices. prompts: the questions' prompt hashes.
    """

    plan: TaskPlan
    nll: np.ndarray
    correct: np.ndarray | None
    raw: np.ndarray | None
    greedy: np.ndarray | None
    response: np.ndarray | None
    prompts: tuple[str, ...]

    @cached_property
    def units(self) -> list[str]:
        """What is independent: (n,), a passage's name where questions share one, else the question's own."""
        return [cluster_of(question) for question in self.plan.questions]

    @cached_property
    def sizes(self) -> np.ndarray:
        """UTF-8 bytes of the right answers, (n,)."""
        return np.array(list(self.plan.answer_bytes.values()), dtype=np.float64)

    @property
    def n(self) -> int:
        """How many questions."""
        return self.nll.shape[1]


def slim(entry: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one of lm-eval's samples: the question's id, its metrics and the chosen index."""
    metrics: dict[str, Any] = {key: entry[key] for key in _METRICS if key in entry}
    chosen = None if entry["doc"]["choices"] is None else chosen_index(entry)
    return {"id": entry["doc"]["id"], **metrics, "chosen": chosen}


def task_scores(plan: TaskPlan, logged: Sequence[Sequence[dict[str, Any]]], prompts: Sequence[str]) -> TaskScores:
    """Gather what lm-eval found on one task: V lists of `slim` samples, each in the order of the questions."""
    wanted = [question.id for question in plan.questions]
    if any([entry["id"] for entry in entries] != wanted for entries in logged):
        raise RegrowthError(f"{plan.name}: lm-eval did not give back the questions that were asked")
    chosen = plan.picks

    def array(key: str, dtype: Any) -> np.ndarray:
        return np.array([[entry[key] for entry in entries] for entries in logged]).astype(dtype)

    return TaskScores(
        plan,
        array("answer_nll_bits", np.float64),
        array("acc_norm", bool) if chosen else None,
        array("acc", bool) if chosen else None,
        None if chosen else array("answer_greedy", bool),
        array("chosen", np.int64) if chosen else None,
        tuple(prompts),
    )


def warnings(tasks: Sequence[TaskScores]) -> list[str]:
    """Tasks of so few questions that their intervals say little."""
    return [
        f"{task.plan.domain}, {task.plan.protocol}: {task.n} questions; below {FEW} an interval says little"
        for task in tasks
        if task.n < FEW
    ]


def chance_of(task: TaskScores) -> float | None:
    """Mean accuracy of blind guesses; None where there is no verdict."""
    return None if task.correct is None else task.plan.chance


def rows(plan: SweepPlan, tasks: Sequence[TaskScores]) -> tuple[VariantRow, ...]:
    """One row per task and variant; the full model's come first in each task."""
    return tuple(_row(variant, index, task) for task in tasks for index, variant in enumerate(plan.variants))


def _row(variant: Variant, index: int, task: TaskScores) -> VariantRow:
    return VariantRow(
        variant=variant.label,
        size=variant.n,
        start=variant.start,
        adapter=variant.adapter,
        domain=task.plan.domain,
        protocol=task.plan.protocol,
        n=task.n,
        chance=chance_of(task),
        accuracy=None if task.correct is None else accuracy_of(task.correct[index].tolist(), task.units),
        accuracy_raw=None if task.raw is None else float(task.raw[index].mean()),
        answer_greedy=None if task.greedy is None else float(task.greedy[index].mean()),
        answer_nll_bits=mean_interval(task.nll[index].tolist(), task.units),
        versus=None if index == 0 else _versus(task, index),
    )


def _versus(task: TaskScores, index: int) -> VariantVersus:
    full_nll, nll = task.nll[0].tolist(), task.nll[index].tolist()
    verdicts: dict[str, Any] = {"accuracy_difference": None}
    if task.correct is not None:
        full, cut = task.correct[0].tolist(), task.correct[index].tolist()
        lost, gained = flips(full, cut)
        verdicts = {
            "accuracy_difference": accuracy_difference(full, cut, task.units),
            "mcnemar_p": mcnemar_exact(lost, gained),
            "lost": lost,
            "gained": gained,
            "retained_above_chance": retained_above_chance(sum(cut) / task.n, sum(full) / task.n, task.plan.chance),
            "retained_interval": retained_interval(full, cut, task.plan.chance, task.units),
            "full_above_chance": accuracy_of(full, task.units).low > task.plan.chance,
        }
    return VariantVersus(
        answer_nll_bits_difference=paired_mean_difference(full_nll, nll, task.units),
        answer_nll_bits_per_byte_difference=paired_ratio_difference(full_nll, nll, task.sizes.tolist(), task.units),
        **verdicts,
    )


def costs(plan: SweepPlan, tasks: Sequence[TaskScores]) -> dict[str, dict[int, dict[int, float]]]:
    """{domain: {size: {start: cost}}} of the plain blocks, the cost being `COST`.

    Per byte, so that domains and protocols of long answers do not outweigh those of short ones. Letters count where
    nothing else is asked of a domain.
    """
    by_domain: dict[str, dict[int, dict[int, float]]] = {}
    for domain in dict.fromkeys(task.plan.domain for task in tasks):
        every = [task for task in tasks if task.plan.domain == domain]
        asked = [task for task in every if task.plan.protocol != _NO_COST] or every
        rise = np.mean([(task.nll.sum(1) - task.nll[0].sum()) / task.sizes.sum() for task in asked], axis=0)
        sizes = by_domain.setdefault(domain, {})
        for index, variant in enumerate(plan.variants):
            if variant.n > 0 and variant.start is not None and variant.adapter is None:
                sizes.setdefault(variant.n, {})[variant.start] = float(rise[index])
    return by_domain


def curve_indices(plan: SweepPlan, tasks: Sequence[TaskScores]) -> list[int]:
    """The variant of each size that stands in the curves, one for all domains.

    Where there are several starts, the one of least cost, all domains alike: a cut is one model, whatever it is asked.
    """
    by_domain = costs(plan, tasks)

    def cost(index: int) -> float:
        variant = plan.variants[index]
        if variant.n == 0 or variant.start is None:
            return 0.0
        return sum(sizes[variant.n][variant.start] for sizes in by_domain.values())

    plain = [index for index, variant in enumerate(plan.variants) if variant.adapter is None]
    sizes = sorted({plan.variants[index].n for index in plain})
    return [min((p for p in plain if plan.variants[p].n == n), key=lambda p: (cost(p), p)) for n in sizes]


def point(row: VariantRow) -> dict[str, Any]:
    """What a curve shows of a row."""
    return {
        key: getattr(row if key in Scores.model_fields else row.versus, key, None) for key in CurvePoint.model_fields
    }


def curves(plan: SweepPlan, tasks: Sequence[TaskScores]) -> tuple[TaskCurve, ...]:
    """Per task its points, by size."""
    indices = curve_indices(plan, tasks)
    return tuple(
        TaskCurve(
            domain=task.plan.domain,
            protocol=task.plan.protocol,
            chance=chance_of(task),
            points=tuple(CurvePoint(**point(_row(plan.variants[index], index, task))) for index in indices),
        )
        for task in tasks
    )


def healed(plan: SweepPlan, tasks: Sequence[TaskScores]) -> tuple[HealedPoint, ...]:
    """The points of adapters, task by task."""
    return tuple(
        HealedPoint(domain=task.plan.domain, protocol=task.plan.protocol, **point(_row(variant, index, task)))
        for task in tasks
        for index, variant in enumerate(plan.variants)
        if variant.adapter is not None
    )


def maps(plan: SweepPlan, tasks: Sequence[TaskScores]) -> tuple[BlockMap, ...]:
    """Per task the change against the full model by size (rows) and start (columns); none where starts are single."""
    if not plan.mapped:
        return ()
    blocks = {
        (v.n, v.start): index
        for index, v in enumerate(plan.variants)
        if v.n > 0 and v.start is not None and not v.adapter
    }
    sizes = tuple(sorted({n for n, _ in blocks}))
    starts = tuple(sorted({start for _, start in blocks}))

    def grid(values: np.ndarray) -> tuple[tuple[float | None, ...], ...]:
        change = values.mean(1) - values[0].mean()
        return tuple(tuple(float(change[blocks[n, s]]) if (n, s) in blocks else None for s in starts) for n in sizes)

    return tuple(
        BlockMap(
            domain=task.plan.domain,
            protocol=task.plan.protocol,
            sizes=sizes,
            starts=starts,
            answer_nll_bits_difference=grid(task.nll),
            accuracy_difference=None if task.correct is None else grid(task.correct),
        )
        for task in tasks
    )


def sample_rows(task: TaskScores) -> list[dict[str, Any]]:
    """One JSON object a question, with lists over the variants."""

    def column(values: np.ndarray | None, index: int) -> list[Any] | None:
        return None if values is None else values[:, index].tolist()

    return [
        {
            "id": question.id,
            "subject": question.subject,
            "source": question.source,
            "prompt_hash": task.prompts[index],
            "correct": column(task.correct, index),
            "correct_raw": column(task.raw, index),
            "answer_greedy": column(task.greedy, index),
            "answer_nll_bits": column(task.nll, index),
            "response": column(task.response, index),
        }
        for index, question in enumerate(task.plan.questions)
    ]
