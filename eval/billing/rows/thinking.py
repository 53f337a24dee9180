"""From the samples of fast and slow thinking to one row per domain, protocol and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.asking.tasks import TaskPlan
from eval.billing.rows.counts import ThinkingCounts, ThinkingScores, count_pairs, thinking_scores
from eval.billing.statistics import Interval, accuracy_difference, paired_gain_difference
from eval.runs.samples import RunResult, Sample
from prune.common.errors import RegrowthError
from prune.common.thinking import MODES


@dataclass(frozen=True)
class ThinkingVersus:
    """One model against the full one on the same questions, this model - full: both accuracies and the gain.

    `noise`: names of those that are within the noise floor, None where it was not measured.
    """

    a_fast: Interval
    a_slow: Interval
    delta: Interval
    noise: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ThinkingRow(ThinkingScores):
    """One model on one domain under one protocol, in both modes; what could not be parsed counts as wrong."""

    domain: str
    protocol: str
    model: str
    n: int
    chance: float
    counts: ThinkingCounts
    unparseable_fast: float
    unparseable_slow: float
    cut_slow: float
    versus: ThinkingVersus | None


def bill_thinking(runs: Sequence[RunResult]) -> list[ThinkingRow]:
    """The rows of all models, the full model (the first) first in each group; [] where no run thinks in both modes.

    Raises RegrowthError where two models, or the two modes, were not asked the same questions in the same words.
    """
    return [
        _row(fast, slow, result, None if result is runs[0] else runs[0])
        for fast, slow in thinking_pairs(runs[0].tasks)
        for result in runs
    ]


def thinking_pairs(tasks: Sequence[TaskPlan]) -> list[tuple[TaskPlan, TaskPlan]]:
    """The tasks that ask the same questions fast and slow, one pair for each domain and protocol."""
    asked = {(t.domain, t.protocol, t.thinking): t for t in tasks if t.thinking is not None}
    groups = dict.fromkeys((domain, protocol) for domain, protocol, _ in asked)
    keys = [[(domain, protocol, mode) for mode in MODES] for domain, protocol in groups]
    return [(asked[fast], asked[slow]) for fast, slow in keys if fast in asked and slow in asked]


def _row(fast: TaskPlan, slow: TaskPlan, result: RunResult, full: RunResult | None) -> ThinkingRow:
    quick, thought = result.of(fast), result.of(slow)
    where = f"{fast.domain}, {fast.protocol}, {result.label}"
    if not quick or [s.id for s in quick] != [s.id for s in thought]:
        raise RegrowthError(f"not paired: {where}: fast and slow thinking were not asked the same questions")
    n, verdicts = len(quick), ([s.correct for s in quick], [s.correct for s in thought])
    versus = None
    if full is not None:
        before_fast, before_slow = _same(full.of(fast), quick, where), _same(full.of(slow), thought, where)
        gained = zip(_gained(before_fast, before_slow), _gained(quick, thought), strict=True)
        changes = [after - before for before, after in gained]
        versus = ThinkingVersus(
            a_fast=_difference(before_fast, quick),
            a_slow=_difference(before_slow, thought),
            delta=paired_gain_difference(changes, [s.unit for s in quick]),
        )
    return ThinkingRow(
        domain=fast.domain,
        protocol=fast.protocol,
        model=result.label,
        n=n,
        chance=fast.chance,
        counts=count_pairs(*verdicts),
        **vars(thinking_scores(*verdicts, [s.unit for s in quick])),
        unparseable_fast=sum(not s.parsed for s in quick) / n,
        unparseable_slow=sum(not s.parsed for s in thought) / n,
        cut_slow=sum(s.cut for s in thought) / n,
        versus=versus,
    )


def _same(before: Sequence[Sample], after: Sequence[Sample], where: str) -> Sequence[Sample]:
    if [(s.id, s.prompt_hash) for s in before] != [(s.id, s.prompt_hash) for s in after]:
        raise RegrowthError(f"not paired: {where}: the two models were not asked the same questions in the same words")
    return before


def _difference(before: Sequence[Sample], after: Sequence[Sample]) -> Interval:
    units = [s.unit for s in before]
    return accuracy_difference([s.correct for s in before], [s.correct for s in after], units)


def _gained(fast: Sequence[Sample], slow: Sequence[Sample]) -> list[float]:
    """What thinking changed on each question: -1, 0 or 1."""
    return [float(s.correct) - float(f.correct) for f, s in zip(fast, slow, strict=True)]
