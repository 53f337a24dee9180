"""`--max-loss`: whether the worst domain lost more accuracy than allowed, and whether the data can tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eval.bill import Row
from eval.statistics import Interval
from prune.errors import UsageError
from prune.terminal import EXIT_TOO_COSTLY

WITHIN, COSTLY, UNKNOWN = "within", "too costly", "cannot tell"


@dataclass(frozen=True)
class Loss:
    """Accuracy that one model lost in one domain and protocol, as a share of the questions; a gain is negative.

    `at_chance`: the full model is not above chance there beyond doubt, so that there is nothing that could be lost.
    """

    model: str
    domain: str
    protocol: str
    loss: Interval
    at_chance: bool


@dataclass(frozen=True)
class Verdict:
    """What `--max-loss` says; `losses` with the worst first, `worst` the one that decides (None if none can).

    `status`: `too costly` where the worst loss is above the limit, `within` where it is not, `cannot tell` where the
    full model is above chance nowhere. `decided`: the interval of the worst loss (for `within`: of every loss) lies on
    one side of the limit.
    """

    limit: float
    status: str
    decided: bool
    sentence: str
    worst: Loss | None
    losses: tuple[Loss, ...]


def parse_limit(text: str) -> float:
    """`5%` as the share 0.05.

    Raises:
        UsageError: it is not a percentage from 0 to 100.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if match is None or float(match.group(1)) > 100:
        raise UsageError(f"--max-loss {text} is no percentage from 0% to 100%; write it as 5%")
    return float(match.group(1)) / 100


def judge(rows: Sequence[Row], limit: float) -> Verdict:
    """The verdict over all models but the full one, all domains and protocols: the worst of them decides."""
    losses = sorted(
        (
            Loss(
                row.model,
                row.domain,
                row.protocol,
                Interval(0.0 - change.estimate, 0.0 - change.high, 0.0 - change.low),
                not row.versus.full_above_chance,
            )
            for row in rows
            if row.versus is not None and (change := row.versus.accuracy_difference)
        ),
        key=lambda one: (one.at_chance, -one.loss.estimate),
    )
    judged = [one for one in losses if not one.at_chance]
    blind = [one for one in losses if one.at_chance]
    if not judged:
        sentence = "the full model is above chance in no domain, so accuracy cannot show a loss; read the answer NLL"
        return Verdict(limit, UNKNOWN, False, f"cannot tell: {sentence}", None, tuple(losses))
    worst = judged[0]
    if worst.loss.estimate > limit:
        decided = worst.loss.low > limit
        words = f"too costly: {_lost(worst)}, more than the {_points(limit)} allowed"
    else:
        decided = all(one.loss.high <= limit for one in judged)
        words = f"within the limit of {_points(limit)} points: the worst is {_lost(worst)}"
    if not decided:
        open_ = worst if worst.loss.estimate > limit else max(judged, key=lambda one: one.loss.high)
        words += f"; not certain, for the interval of {_place(open_)} reaches {_points(limit)}: ask more questions"
    if blind:
        names = ", ".join(dict.fromkeys(f"{one.domain} {one.protocol}" for one in blind))
        words += f"; not judged, for the full model is not above chance there: {names}"
    return Verdict(limit, COSTLY if worst.loss.estimate > limit else WITHIN, decided, words, worst, tuple(losses))


def _place(one: Loss) -> str:
    return f"{one.model} on {one.domain} {one.protocol}"


def _lost(one: Loss) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in (one.loss.low, one.loss.high))
    return f"{_place(one)} loses {100 * one.loss.estimate:.1f} points of accuracy [{low}, {high}]"


def _points(share: float) -> str:
    return f"{100 * share:g}"


def exit_code(status: str) -> int:
    """0 within the limit, 3 too costly, 1 where nothing can be told: a gate must not open for want of data."""
    return {WITHIN: 0, COSTLY: EXIT_TOO_COSTLY}.get(status, 1)
