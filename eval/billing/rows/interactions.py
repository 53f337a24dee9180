"""Is the loss in one domain larger than in another? The difference of two paired differences, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from eval.asking.tasks import TaskPlan
from eval.billing.rows.bill import DomainRow, answer_nll, pair
from eval.billing.rows.thinking import ThinkingRow, thinking_pairs
from eval.billing.statistics import Interval, correlation_of_means, difference_of_intervals
from eval.runs.samples import RunResult, Sample


@dataclass(frozen=True)
class Interaction:
    """Loss of one model in domain A minus its loss in domain B, under one protocol. A loss is positive.

    `docs/formats.md` tells the fields. The intervals take account of the `shared` questions.
    """

    model: str
    protocol: str
    domains: tuple[str, str]
    accuracy: Interval
    answer_nll_bits: Interval | None
    at_chance: tuple[str, ...]
    shared: int
    answer_nll_bits_per_byte: Interval | None


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


def bill_interactions(rows: Sequence[DomainRow], runs: Sequence[RunResult]) -> list[Interaction]:
    """One for each model but the first, protocol and pair of domains that have it, in the order of the rows."""
    by_task = {(row.model, row.domain, row.protocol): row for row in rows}
    plans = [plan for plan in runs[0].tasks if plan.thinking is None]
    return [
        _interaction(result, runs[0], (first, second), by_task)
        for result in runs[1:]
        for first, second in combinations(plans, 2)
        if first.protocol == second.protocol
    ]


def _interaction(
    result: RunResult, full: RunResult, plans: tuple[TaskPlan, TaskPlan], rows: dict[tuple[str, str, str], DomainRow]
) -> Interaction:
    versus = [v for plan in plans if (v := rows[result.label, plan.domain, plan.protocol].versus)]
    sides = [pair(full.of(plan), result.of(plan)) for plan in plans]
    pairs = [list(zip(*side, strict=True)) for side in sides]
    units = [[sample.unit for sample in before] for before, _ in sides]
    verdicts = [[float(a.correct) - float(b.correct) for b, a in answers] for answers in pairs]
    per_answer = per_byte = None
    rates = [rate for side in versus if (rate := side.answer_nll_bits_per_byte_difference) is not None]
    rises = [rise for side in versus if (rise := side.answer_nll_bits_difference) is not None]
    if len(rates) == len(rises) == len(plans):
        bits = [[answer_nll(a) - answer_nll(b) for b, a in answers] for answers in pairs]
        beyond = [  # what is left of each question's change beyond its bytes times the rate
            [change - rate.estimate * plan.answer_bytes[b.id] for change, (b, _) in zip(changes, answers, strict=True)]
            for plan, rate, changes, answers in zip(plans, rates, bits, pairs, strict=True)
        ]
        per_answer, per_byte = _difference(rises, bits, units), _difference(rates, beyond, units)
    ids = [{sample.id for sample in before} for before, _ in sides]
    domains = (plans[0].domain, plans[1].domain)
    return Interaction(
        model=result.label,
        protocol=plans[0].protocol,
        domains=domains,
        accuracy=_difference([side.accuracy_difference.negated for side in versus], verdicts, units),
        answer_nll_bits=per_answer,
        at_chance=tuple(d for d, side in zip(domains, versus, strict=True) if not side.full_above_chance),
        shared=len(ids[0] & ids[1]),
        answer_nll_bits_per_byte=per_byte,
    )


def _difference(
    losses: Sequence[Interval], changes: Sequence[Sequence[float]], units: Sequence[Sequence[str]]
) -> Interval:
    """Of the losses in two domains. The questions' `changes`, and their `units` in both, say how both go together."""
    correlation = correlation_of_means(changes[0], units[0], changes[1], units[1])
    return difference_of_intervals(losses[0], losses[1], correlation=correlation)


_Pair = tuple[TaskPlan, TaskPlan]  # fast, slow
_Answers = tuple[Sequence[Sample], Sequence[Sample]]


def bill_thinking_interactions(rows: Sequence[ThinkingRow], runs: Sequence[RunResult]) -> list[ThinkingInteraction]:
    """One for each model but the first, protocol and pair of domains that were asked fast and slow."""
    by_task = {(row.model, row.domain, row.protocol): row for row in rows}
    return [
        _thinking_interaction(result, runs[0], (first, second), by_task)
        for result in runs[1:]
        for first, second in combinations(thinking_pairs(runs[0].tasks), 2)
        if first[0].protocol == second[0].protocol
    ]


def _thinking_interaction(
    result: RunResult, full: RunResult, sides: tuple[_Pair, _Pair], rows: dict[tuple[str, str, str], ThinkingRow]
) -> ThinkingInteraction:
    protocol = sides[0][0].protocol
    versus = [v for fast, _ in sides if (v := rows[result.label, fast.domain, protocol].versus)]
    before, after = ([(run.of(fast), run.of(slow)) for fast, slow in sides] for run in (full, result))
    units = [[sample.unit for sample in fast] for fast, _ in before]

    def difference(measure: str) -> Interval:
        changes = [
            [a - b for b, a in zip(_values(old, measure), _values(new, measure), strict=True)]
            for old, new in zip(before, after, strict=True)
        ]
        return _difference([getattr(side, measure).negated for side in versus], changes, units)

    return ThinkingInteraction(
        model=result.label,
        protocol=protocol,
        domains=(sides[0][0].domain, sides[1][0].domain),
        a_fast=difference("a_fast"),
        a_slow=difference("a_slow"),
        delta=difference("delta"),
    )


def _values(answers: _Answers, measure: str) -> list[float]:
    """What a measure counts of each question: right at once, right after thinking, or what thinking changed."""
    fast, slow = ([float(sample.correct) for sample in samples] for samples in answers)
    if measure == "delta":
        return [s - f for f, s in zip(fast, slow, strict=True)]
    return fast if measure == "a_fast" else slow
