"""As layers go, what goes first: does overthinking rise before correction falls, and knowledge before reasoning?

Larger models overthink less in all domains, and correct more in few (arXiv 2507.18178). Read backwards, a growing cut
would raise the overthinking rate r_o before it lowers the correction rate r_c. `eval.billing.rows.counts` defines both.
Pure arithmetic on the verdicts of the same questions, asked fast and slow, of the full model and of growing cuts.

Two sizes are told of each rate. The first at which its change is *certain*: the 95 % interval, paired with the full
model, lies beyond 0 there, and those of all sizes hold together. It depends on how many questions a rate is made of.
r_o and r_c are made of different ones, so it does not tell their order. The other is the first size from which on the
rate has changed by a *margin*, the same for both: the order of these is counted over resamples of the questions.

A limit that no arithmetic removes: the rates are shares of those questions that *this* model has right, or wrong, at
once. A model that only guesses among K choices has r_o = 1 - 1/K and r_c = 1/K, whatever it was before, so that near
chance r_o rises without any thinking.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from eval.billing.rows.counts import ThinkingCounts, count_pairs
from prune.common.files.artefact import OptionalFloat, Part
from prune.common.intervals import Interval, Redraws

MARGIN = 0.05  # of the questions that a rate is made of
FEWEST = 10  # questions that a rate is made of; fewer are no rate
CONFIDENT = 0.95  # share of the resamples that must agree on the order

Measure = Literal["r_o", "r_c", "a_fast", "delta"]
_SIGNS: dict[Measure, float] = {"r_o": 1.0, "r_c": -1.0, "a_fast": -1.0, "delta": -1.0}
_NAMES: dict[Measure, str] = {
    "r_o": "overthinking",
    "r_c": "correction",
    "a_fast": "knowledge",
    "delta": "reasoning",
}
OrderVerdict = Literal[
    "overthinking first", "correction first", "knowledge first", "reasoning first", "cannot tell here"
]
_VERDICTS: dict[Measure, OrderVerdict] = {
    "r_o": "overthinking first",
    "r_c": "correction first",
    "a_fast": "knowledge first",
    "delta": "reasoning first",
}
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The verdicts of one domain under one protocol, for the full model and for growing cuts.

    Attributes:
        name: of the domain.
        fast_right, slow_right: shape (sizes, questions); the first row is the full model's.
        clusters: shape (questions,), the same for questions that share a passage.
    """

    name: str
    fast_right: Bools
    slow_right: Bools
    clusters: NDArray[np.int64]


class AtSize(Part):
    """One size of the cut: its counts, and what has changed against the full model."""

    size: int = Field(description="layers dropped")
    counts: ThinkingCounts = Field(description="`both_right`, `fast_only`, `slow_only`, `both_wrong`")
    r_o: Interval | None = Field(
        description="change of the overthinking rate; null where it, or the full one's, is of fewer than 10 questions; "
        "the intervals of one measure hold for all sizes together with 95 %"
    )
    r_c: Interval | None = Field(description="change of the correction rate; null likewise")
    a_fast: Interval | None = Field(
        description="change of accuracy at once; null for fewer than 10 questions, or where all share one passage"
    )
    delta: Interval | None = Field(description="change of the reasoning gain; null likewise")


class Event(Part):
    """When one measure goes: r_o by rising, the others by falling."""

    measure: Measure = Field(description="r_o, r_c, a_fast or delta")
    certain: int | None = Field(
        description="first size at which its change is certain; null if at none. It depends on how many questions the "
        "measure is made of"
    )
    reached: int | None = Field(
        description="first size from which on, up to the largest, it has changed by the margin; null if from none"
    )


class Order(Part):
    """Which of two measures goes first."""

    first: Event = Field(description="the one that is claimed to go first")
    second: Event = Field(description="the other")
    first_earlier: OptionalFloat = Field(
        description="share of resamples in which the first has changed by the margin at a smaller size than the "
        "second; null where one of both is of too few questions at every size"
    )
    second_earlier: OptionalFloat = Field(
        description="share in which the second has; in the rest both, or none, at one size; null likewise"
    )
    verdict: OrderVerdict = Field(
        description="the one that is earlier in 95 % of resamples and changes for certain; else `cannot tell here`"
    )
    note: str = Field(description="why nothing could be told; else empty")


class Asymmetry(Part):
    """As layers go, what goes first in a domain."""

    domain: str = Field(description="the domain")
    questions: int = Field(description="questions, the same at each size")
    clusters: int = Field(description="of these, how many share no passage")
    margin: float = Field(description="change that counts for the order, as a share of the questions of a rate")
    full: ThinkingCounts = Field(description="the full model's counts")
    sizes: tuple[AtSize, ...] = Field(description="each size of the cut, growing")
    overthinking: Order = Field(description="does r_o rise before r_c falls")
    knowledge: Order = Field(description="does a_fast fall before delta falls")


def order_of_events(
    sizes: Sequence[int], answers: Answers, *, margin: float = MARGIN, resamples: int = 2000, seed: int
) -> Asymmetry:
    """What goes first as cuts grow: r_o up or r_c down, A_fast down or delta down.

    Args:
        sizes: layers dropped, 0 first and growing; one for each row of the answers.
        margin: the change by which the order is told.
        resamples: of the bootstrap, by clusters, the same for all sizes and measures.

    Raises:
        ValueError: sizes that do not begin with 0 and grow, or that are not those of the answers; no question.
    """
    fast, slow = (np.asarray(rows, dtype=np.bool_) for rows in (answers.fast_right, answers.slow_right))
    if len(sizes) < 2 or sizes[0] != 0 or any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes must be 0 and then grow, not {list(sizes)}")
    if not fast.shape == slow.shape == (len(sizes), len(answers.clusters)):
        raise ValueError(f"{answers.name}: answers of shape {fast.shape} and {slow.shape} for {len(sizes)} sizes")
    redraws = Redraws.of(answers.clusters, resamples=resamples, seed=seed)
    every = np.ones(fast.shape)
    changes: dict[Measure, _Changes] = {
        "r_o": _changes(redraws, fast & ~slow, fast),
        "r_c": _changes(redraws, ~fast & slow, ~fast),
        "a_fast": _changes(redraws, fast, every),
        "delta": _changes(redraws, slow.astype(float) - fast, every),
    }
    alone = "" if redraws.clusters > 1 else "all questions share one passage"
    counts = [count_pairs(f, s) for f, s in zip(fast.tolist(), slow.tolist(), strict=True)]
    return Asymmetry(
        domain=answers.name,
        questions=fast.shape[1],
        clusters=redraws.clusters,
        margin=margin,
        full=counts[0],
        sizes=tuple(
            AtSize(
                size=size,
                counts=counts[row + 1],
                r_o=changes["r_o"].intervals[row],
                r_c=changes["r_c"].intervals[row],
                a_fast=changes["a_fast"].intervals[row],
                delta=changes["delta"].intervals[row],
            )
            for row, size in enumerate(sizes[1:])
        ),
        overthinking=_order("r_o", "r_c", changes, sizes[1:], margin, alone),
        knowledge=_order("a_fast", "delta", changes, sizes[1:], margin, alone or _no_gain(redraws, fast[0], slow[0])),
    )


def _no_gain(redraws: Redraws, fast: Bools, slow: Bools) -> str:
    """Why a reasoning gain cannot be lost, from the full model's verdicts; empty where it can."""
    gained = redraws.means(slow.astype(float) - fast).intervals()[0]
    return "" if gained.low > 0 else "the full model gains nothing from thinking for certain, so it has none to lose"


@dataclass(frozen=True)
class _Changes:
    """Of one measure against the full model: the interval at each size (None where there is no rate), and the change in
    the sample (first) and in each resample, shape (R + 1, sizes), NaN where there is no rate."""

    intervals: tuple[Interval | None, ...]
    draws: Floats


def _changes(redraws: Redraws, over: ArrayLike, under: ArrayLike) -> _Changes:
    """Of the ratio of sums of two tables, (sizes, questions), whose first row is the full model."""
    above, below = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    enough = (below.sum(1) >= FEWEST) & (below[0].sum() >= FEWEST)
    places = np.flatnonzero(enough[1:]) + 1
    draws = np.full((len(redraws.weights), len(above) - 1), np.nan)
    intervals: list[Interval | None] = [None] * (len(above) - 1)
    if places.size and redraws.clusters > 1:
        full = [np.broadcast_to(table[0], (places.size, table.shape[1])) for table in (above, below)]
        estimates = redraws.ratios(above[places], below[places], *full)
        draws[:, places - 1] = estimates.values
        for place, interval in zip(places, estimates.intervals(joint=True), strict=True):
            intervals[place - 1] = interval
    return _Changes(tuple(intervals), draws)


def _order(
    first: Measure,
    second: Measure,
    changes: dict[Measure, _Changes],
    sizes: Sequence[int],
    margin: float,
    reason: str,
) -> Order:
    sides = [(measure, changes[measure]) for measure in (first, second)]
    reached = [first_beyond(_SIGNS[measure] * of.draws, margin) for measure, of in sides]
    events = [
        Event(
            measure=measure,
            certain=next((size for size, i in zip(sizes, of.intervals, strict=True) if _beyond(i, measure)), None),
            reached=sizes[at[0]] if at[0] < len(sizes) else None,
        )
        for (measure, of), at in zip(sides, reached, strict=True)
    ]
    earlier = [float((a[1:] < b[1:]).mean()) for a, b in ((reached[0], reached[1]), (reached[1], reached[0]))]
    unknown = [_NAMES[measure] for measure, of in sides if not any(of.intervals)]
    if unknown:  # what was not measured does not come later than what was
        earlier = [float("nan"), float("nan")]
    note = reason or (f"too few questions for a rate of {' and '.join(unknown)}" if unknown else "")
    verdict: OrderVerdict = "cannot tell here"
    for event, share in zip(events, earlier, strict=True):
        if not note and share >= CONFIDENT and event.certain is not None:
            verdict = _VERDICTS[event.measure]
    return Order(
        first=events[0],
        second=events[1],
        first_earlier=earlier[0],
        second_earlier=earlier[1],
        verdict=verdict,
        note=note,
    )


def _beyond(interval: Interval | None, measure: Measure) -> bool:
    """Whether a change goes the measure's way for certain."""
    return interval is not None and (interval.low > 0 if _SIGNS[measure] > 0 else interval.high < 0)


def first_beyond(changes: Floats, margin: float) -> NDArray[np.intp]:
    """For each row the first place from which on all changes are the margin or more; the number of places if none.

    Args:
        changes: shape (R, sizes); a NaN does not count, neither for nor against.
    """
    known = ~np.isnan(changes)
    holds = ~known | (changes >= margin - 1e-12)  # 0.55 - 0.5 is a hair more than 0.05, 0.3 - 0.25 a hair less
    onward = np.flip(np.logical_and.accumulate(np.flip(holds, 1), axis=1), 1) & known
    return np.where(onward.any(1), onward.argmax(1), changes.shape[1])
