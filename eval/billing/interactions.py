"""Is the loss in one domain larger than in another? The difference of two paired differences, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from eval.asking.tasks import TaskPlan
from eval.billing.bill import Row, interval_from, pair
from eval.billing.statistics import Interval, correlation_of_means, difference_of_intervals
from eval.runs.samples import RunResult, Sample


@dataclass(frozen=True)
class Interaction:
    """Loss of one model in domain A minus its loss in domain B, under one protocol. A loss is positive.

    `accuracy`: share of questions lost; `answer_nll_bits`: bits gained per answer, which is more where answers are
    longer; `answer_nll_bits_per_byte`: the same per byte of the right answers, which compares. `at_chance` names those
    of the two where the full model is not above chance beyond doubt, so that accuracy has nothing to lose. `shared`:
    questions that stand in both domains; the interval takes account of them.
    """

    model: str
    protocol: str
    domains: tuple[str, str]
    accuracy: Interval
    answer_nll_bits: Interval
    at_chance: tuple[str, ...]
    shared: int
    answer_nll_bits_per_byte: Interval | None = None

    @property
    def nll(self) -> Interval:
        """The difference by answer NLL: per byte, or per answer in a file of an earlier version, which has no other."""
        return self.answer_nll_bits_per_byte or self.answer_nll_bits

    @property
    def clear(self) -> bool:
        """Whether an interval excludes 0."""
        return any(i.low > 0 or i.high < 0 for i in (self.accuracy, self.nll))


def bill_interactions(rows: Sequence[Row], runs: Sequence[RunResult]) -> list[Interaction]:
    """One for each model but the first, protocol and pair of domains that have it, in the order of the rows."""
    found = {(row.model, row.domain, row.protocol): row for row in rows}
    plans = [plan for plan in runs[0].tasks if plan.thinking is None]
    return [
        _interaction(result, runs[0], (first, second), found)
        for result in runs[1:]
        for first, second in combinations(plans, 2)
        if first.protocol == second.protocol
    ]


def _interaction(
    result: RunResult, full: RunResult, plans: tuple[TaskPlan, TaskPlan], rows: dict[tuple[str, str, str], Row]
) -> Interaction:
    sides = [pair(full.of(plan), result.of(plan)) for plan in plans]
    one, other = (rows[result.label, plan.domain, plan.protocol].versus for plan in plans)
    assert one is not None
    assert other is not None
    accuracy = difference_of_intervals(
        one.accuracy_difference.negated, other.accuracy_difference.negated, _correlation(sides, _verdict)
    )
    nll = difference_of_intervals(
        one.answer_nll_bits_difference, other.answer_nll_bits_difference, _correlation(sides, _bits)
    )
    per_byte = None
    rates = [side.answer_nll_bits_per_byte_difference for side in (one, other)]
    if rates[0] is not None and rates[1] is not None:
        per_byte = difference_of_intervals(rates[0], rates[1], _correlation_per_byte(sides, plans, rates))
    ids = [{sample.id for sample in before} for before, _ in sides]
    domains = (plans[0].domain, plans[1].domain)
    return Interaction(
        model=result.label,
        protocol=plans[0].protocol,
        domains=domains,
        accuracy=accuracy,
        answer_nll_bits=nll,
        at_chance=tuple(d for d, v in zip(domains, (one, other), strict=True) if not v.full_above_chance),
        shared=len(ids[0] & ids[1]),
        answer_nll_bits_per_byte=per_byte,
    )


def _verdict(sample: Sample) -> float:
    return float(sample.correct)


def _bits(sample: Sample) -> float:
    return float(sample.answer_nll_bits or 0.0)


def _correlation(sides: list[tuple[list[Sample], list[Sample]]], value: Any) -> float:
    return _of_changes(sides, [[value(a) - value(b) for b, a in zip(*side, strict=True)] for side in sides])


def _correlation_per_byte(
    sides: list[tuple[list[Sample], list[Sample]]], plans: tuple[TaskPlan, TaskPlan], rates: list[Interval | None]
) -> float:
    """Of two ratios: that of what is left of each question's change beyond its bytes times the ratio."""
    left = []
    for side, plan, rate in zip(sides, plans, rates, strict=True):
        sizes, ratio = plan.answer_bytes, rate.estimate if rate else 0.0
        left.append([_bits(a) - _bits(b) - ratio * sizes[b.id] for b, a in zip(*side, strict=True)])
    return _of_changes(sides, left)


def _of_changes(sides: list[tuple[list[Sample], list[Sample]]], changes: list[list[float]]) -> float:
    units = [[sample.unit for sample in before] for before, _ in sides]
    return correlation_of_means(changes[0], units[0], changes[1], units[1])


def interaction_from(raw: dict[str, Any]) -> Interaction:
    """An interaction of comparison.json as the dataclass it was made from."""
    keys = ("accuracy", "answer_nll_bits", "answer_nll_bits_per_byte")
    intervals = {key: interval_from(raw.get(key)) for key in keys}
    return Interaction(**{**raw, **intervals, "domains": tuple(raw["domains"]), "at_chance": tuple(raw["at_chance"])})
