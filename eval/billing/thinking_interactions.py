"""Does a cut cost one domain more knowledge, or more reasoning, than another? From fast and slow thinking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from eval.asking.tasks import TaskPlan
from eval.billing.statistics import Interval, correlation_of_means, difference_of_intervals
from eval.billing.thinking import ThinkingRow, thinking_pairs
from eval.runs.samples import RunResult, Sample


@dataclass(frozen=True)
class ThinkingInteraction:
    """Loss of one model in the first domain minus its loss in the second, under one protocol; a loss is positive.

    `a_fast`: knowledge lost, `a_slow`: accuracy after thinking lost, `delta`: reasoning gain lost; shares of questions.
    """

    model: str
    protocol: str
    domains: tuple[str, str]
    a_fast: Interval
    a_slow: Interval
    delta: Interval


def bill_thinking_interactions(rows: Sequence[ThinkingRow], runs: Sequence[RunResult]) -> list[ThinkingInteraction]:
    """One for each model but the first, protocol and pair of domains that were asked fast and slow."""
    found = {(row.model, row.domain, row.protocol): row for row in rows}
    return [
        _interaction(result, runs[0], (first, second), found)
        for result in runs[1:]
        for first, second in combinations(thinking_pairs(runs[0].tasks), 2)
        if first[0].protocol == second[0].protocol
    ]


_Pair = tuple[TaskPlan, TaskPlan]  # fast, slow
_Samples = tuple[Sequence[Sample], Sequence[Sample]]


def _interaction(
    result: RunResult, full: RunResult, sides: tuple[_Pair, _Pair], rows: dict[tuple[str, str, str], ThinkingRow]
) -> ThinkingInteraction:
    protocol = sides[0][0].protocol
    one, other = (rows[result.label, fast.domain, protocol].versus for fast, _ in sides)
    assert one is not None
    assert other is not None
    before = [(full.of(fast), full.of(slow)) for fast, slow in sides]
    after = [(result.of(fast), result.of(slow)) for fast, slow in sides]

    def difference(first: Interval, second: Interval, value: Callable[[Sample, Sample], float]) -> Interval:
        changes = [_changes(b, a, value) for b, a in zip(before, after, strict=True)]
        units = [[sample.unit for sample in fast] for fast, _ in before]
        correlation = correlation_of_means(changes[0], units[0], changes[1], units[1])
        return difference_of_intervals(first.negated, second.negated, correlation)

    return ThinkingInteraction(
        model=result.label,
        protocol=protocol,
        domains=(sides[0][0].domain, sides[1][0].domain),
        a_fast=difference(one.a_fast, other.a_fast, lambda fast, slow: float(fast.correct)),
        a_slow=difference(one.a_slow, other.a_slow, lambda fast, slow: float(slow.correct)),
        delta=difference(one.delta, other.delta, lambda fast, slow: float(slow.correct) - float(fast.correct)),
    )


def _changes(before: _Samples, after: _Samples, value: Callable[[Sample, Sample], float]) -> list[float]:
    old = [value(fast, slow) for fast, slow in zip(*before, strict=True)]
    new = [value(fast, slow) for fast, slow in zip(*after, strict=True)]
    return [a - b for b, a in zip(old, new, strict=True)]
