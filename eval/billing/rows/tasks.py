"""The bill of lm-eval's own tasks and groups, by their own metrics; paired where a score per question makes them up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.asking.lm_eval_tasks import LoggedAnswer, leaves
from eval.billing.statistics import Interval, accuracy_difference, flips, mcnemar_exact, paired_mean_difference
from eval.runs.samples import RunResult
from prune.common.errors import RegrowthError


@dataclass(frozen=True)
class TaskRow:
    """One model on one task or group of lm-eval; `difference` is model - full, in the metric's own unit."""

    task: str
    metric: str
    filter: str
    model: str
    n: int
    value: float
    higher_is_better: bool | None
    group: bool
    difference: Interval | None = None
    lost: int | None = None
    gained: int | None = None
    mcnemar_p: float | None = None


def bill_tasks(runs: Sequence[RunResult]) -> list[TaskRow]:
    """All models' rows, the full one's first; a RegrowthError where one was not asked a task in the same words."""
    return [_row(runs[0], result, *metric) for metric in _metrics(runs[0]) for result in runs]


def _row(full: RunResult, result: RunResult, task: str, metric: str, filter_name: str) -> TaskRow:
    scores = result.harness["results"].get(task, {})
    if f"{metric},{filter_name}" not in scores:
        raise RegrowthError(f"not paired: {result.label} has no {metric} of task {task}")
    row = TaskRow(
        task=task,
        metric=metric,
        filter=filter_name,
        model=result.label,
        n=int(scores.get("sample_len", 0)),
        value=float(scores[f"{metric},{filter_name}"]),
        higher_is_better=result.harness.get("higher_is_better", {}).get(task, {}).get(metric),
        group=task in result.harness.get("groups", {}),
    )
    return row if result is full else _against(row, full, result)


def _metrics(result: RunResult) -> Iterator[tuple[str, str, str]]:
    planned = {plan.name for plan in result.tasks}
    for task, scores in result.harness.get("results", {}).items():
        for key, value in scores.items():
            metric, comma, filter_name = key.partition(",")
            if task not in planned and comma and not metric.endswith("_stderr") and _number(value):
                yield task, metric, filter_name


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _against(row: TaskRow, full: RunResult, result: RunResult) -> TaskRow:
    before, after = (_scores(run, row) for run in (full, result))
    if set(before) != set(after):
        raise RegrowthError(f"not paired: {row.model} was not asked the same questions of task {row.task}")
    if unlike := [key for key in before if before[key].prompt_hash != after[key].prompt_hash]:
        raise RegrowthError(f"not paired: question {unlike[0][1]} of task {unlike[0][0]} was put in different prompts")
    first, second = ([side[key].scores[row.metric] for key in before] for side in (before, after))
    if len(first) < 2 or not _makes_up(second, row.value):
        return row
    if not set(first) | set(second) <= {0.0, 1.0}:
        return replace(row, difference=paired_mean_difference(first, second))
    was, became = ([score == 1.0 for score in side] for side in (first, second))
    lost, gained = flips(was, became)
    difference = accuracy_difference(was, became, [str(key) for key in before])
    return replace(row, difference=difference, lost=lost, gained=gained, mcnemar_p=mcnemar_exact(lost, gained))


def _scores(result: RunResult, row: TaskRow) -> dict[tuple[str, int], LoggedAnswer]:
    """Scores by task and question; of a group, of all its tasks."""
    tasks = set(leaves(result.harness.get("group_subtasks", {}), row.task))
    return {
        (answer.task, answer.doc_id): answer
        for answer in result.logged
        if answer.task in tasks and answer.filter == row.filter and row.metric in answer.scores
    }


def _makes_up(scores: Sequence[float], value: float) -> bool:
    """Whether a metric is the mean of its scores per question (perplexities and the like are not)."""
    return math.isclose(sum(scores) / len(scores), value, rel_tol=1e-9, abs_tol=1e-12)
