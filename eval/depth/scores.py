"""From each question's measures to what depth.json says of each block and of each third of the layers. Arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.billing.rows.bill import FEW
from eval.billing.statistics import mean_interval, paired_mean_difference
from eval.depth.contrasting.interaction import DEEP, SHALLOW
from eval.depth.document import DepthTaskRecord, MeasureRow, Third
from eval.depth.measures import UNITS, TaskMeasures
from eval.depth.plan import middle
from eval.depth.settings import DepthSettings
from eval.sweeps.plan import SweepPlan

THIRDS = ("shallow", "middle", "deep")


def shown_measures(asked: Sequence[str]) -> tuple[str, ...]:
    """The measures of a run that asked for some: with `writing` and `control` comes `informed`."""
    both = {"writing", "control"} <= set(asked)
    return tuple(name for name in UNITS if name in asked or (name == "informed" and both))


def describe_task(task: TaskMeasures) -> DepthTaskRecord:
    """How many questions a task has, and of which kinds."""
    questions = task.task.plan.questions
    used = task.task.lengths > 0
    sources = [question.source for question in questions]
    return DepthTaskRecord(
        domain=task.task.plan.domain,
        protocol=task.task.plan.protocol,
        n=task.task.n,
        clusters=len(set(task.units)),
        chance=task.task.plan.chance,
        sets={name: sources.count(name) for name in dict.fromkeys(sources)},
        rationales=int(used.sum()),
        controls=int((task.task.partners >= 0).sum()),
        rationale_tokens=float(task.task.lengths[used].mean()) if used.any() else None,
        rationales_there=task.task.rationales,
        rationales_too_long=task.task.too_long,
    )


def rows(plan: SweepPlan, tasks: Sequence[TaskMeasures], measures: Sequence[str]) -> tuple[MeasureRow, ...]:
    """One row for each task, measure and variant, the full model's first; of a measure that is not there all null."""
    return tuple(
        _row(variant.label, number, task, measure)
        for task in tasks
        for measure in measures
        for number, variant in enumerate(plan.variants)
    )


def _row(label: str, number: int, task: TaskMeasures, measure: str) -> MeasureRow:
    there = task.there(measure)
    value = change = None
    if task.measured(measure):
        values, units = task.values[measure][:, there], _some(task.units, there)
        value = mean_interval(values[number].tolist(), units)
        if number:
            change = paired_mean_difference(values[0].tolist(), values[number].tolist(), units)
    return MeasureRow(
        variant=label,
        domain=task.task.plan.domain,
        protocol=task.task.plan.protocol,
        measure=measure,
        unit=UNITS[measure],
        n=int(there.sum()) if value is not None else 0,
        value=value,
        change=change,
    )


def _some(units: Sequence[str], there: np.ndarray) -> list[str]:
    return [unit for unit, here in zip(units, there, strict=True) if here]


def thirds(plan: SweepPlan, tasks: Sequence[TaskMeasures], measures: Sequence[str]) -> tuple[Third, ...]:
    """What the median block of each third costs, by size, task and measure, where it is measured."""
    blocks = [variant for variant in plan.variants if variant.start is not None]
    found = []
    for size in plan.sizes[1:]:
        for task in tasks:
            for measure in (name for name in measures if task.measured(name)):
                there = task.there(measure)
                costs = task.costs(measure)[:, there]
                for third in THIRDS:
                    picked = [
                        number
                        for number, variant in enumerate(blocks)
                        if variant.n == size and third_of(middle(variant.start or 0, size, plan.layers)) == third
                    ]
                    if picked:
                        cost = mean_interval(np.median(costs[picked], axis=0).tolist(), _some(task.units, there))
                        found.append(
                            Third(
                                size=size,
                                third=third,
                                blocks=len(picked),
                                domain=task.task.plan.domain,
                                protocol=task.task.plan.protocol,
                                measure=measure,
                                cost=cost,
                            )
                        )
    return tuple(found)


def third_of(depth: float) -> str:
    """Where a block's middle lies: shallow, middle or deep."""
    return "shallow" if depth < SHALLOW else "deep" if depth > DEEP else "middle"


def warnings(tasks: Sequence[TaskMeasures], settings: DepthSettings, truncated: int) -> list[str]:
    """What a reader must see before the numbers."""
    lines = []
    for domain in dict.fromkeys(task.task.plan.domain for task in tasks):
        asked = [task for task in tasks if task.task.plan.domain == domain]
        if settings.chain_measures and not any(task.task.lengths.any() for task in asked):
            lines.append(
                f"no question of {domain} has a rationale that is used, so there is no "
                f"{', '.join(settings.chain_measures)} there"
            )
    for task in tasks:
        if task.task.too_long:
            lines.append(
                f"{task.name}: {task.task.too_long} of {task.task.rationales} rationales are longer than "
                f"{settings.max_rationale_tokens} tokens and are not used"
            )
        lonely = int(((task.task.lengths > 0) & (task.task.partners < 0)).sum())
        if lonely and "control" in settings.measures:
            lines.append(
                f"{task.name}: {lonely} questions have no other rationale of their set beside them as a control"
            )
        if task.task.n < FEW:
            lines.append(f"{task.name}: {task.task.n} questions; below {FEW} an interval says little")
    if truncated:
        lines.append(f"the start of {truncated} requests was cut to fit the context")
    return lines
