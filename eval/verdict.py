"""`--max-loss`: whether the worst domain lost more accuracy than allowed, and whether the data can tell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.asking.tasks import MODES
from eval.bill import Row
from eval.statistics import Interval
from eval.thinking.bill import ThinkingRow
from prune.errors import UsageError
from prune.terminal import EXIT_TOO_COSTLY

WITHIN, COSTLY, UNKNOWN = "within", "too costly", "cannot tell"
_TINY = 1e-9  # of accuracy: 0.30 - 0.25 is a hair less than 0.05


@dataclass(frozen=True)
class Loss:
    """Accuracy that one model lost in one domain and protocol, as a share of the questions; a gain is negative.

    `at_chance`: the full model is not above chance there beyond doubt, so that there is nothing that could be lost.
    `room`: accuracy of the full model above chance, about the most that can be lost. `thinking`: `fast` or `slow` where
    the accuracy is that of the thinking mode, None for the plain protocol.
    """

    model: str
    domain: str
    protocol: str
    loss: Interval
    at_chance: bool
    room: float
    thinking: str | None = None

    @property
    def place(self) -> str:
        """What was asked: `math generation (slow thinking)`."""
        return f"{self.domain} {self.protocol}" + (f" ({self.thinking} thinking)" if self.thinking else "")


@dataclass(frozen=True)
class Verdict:
    """What `--max-loss` says; `losses` with the worst first, `worst` the one that decides (None if none can).

    `status`: `too costly` where the worst loss is above the limit, `within` where it is not, `cannot tell` where the
    full model is nowhere above chance by more than the limit. `decided`: the interval of the worst loss (for `within`:
    of every loss judged) lies on one side of the limit.
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


def judge(rows: Sequence[Row], limit: float, thinking: Sequence[ThinkingRow] = ()) -> Verdict:
    """The verdict over all models but the full one, all domains, protocols and thinking modes: the worst decides.

    A loss above the limit is too costly wherever the full model is above chance. For `within`, a row counts only where
    the full model is above chance by more than the limit: any other could not lose as much, and so proves nothing.
    """
    losses = sorted([*_losses(rows), *_thinking_losses(thinking)], key=lambda one: (one.at_chance, -one.loss.estimate))
    open_ = [one for one in losses if not one.at_chance]
    over = [one for one in open_ if one.loss.estimate > limit]
    told = [one for one in open_ if one.room > limit + _TINY]
    if not over and not told:
        return Verdict(limit, UNKNOWN, False, f"cannot tell: {_no_room(losses, limit)}", None, tuple(losses))
    judged = over or told
    worst = judged[0]
    if over:
        decided = worst.loss.low > limit
        words = f"too costly: {_lost(worst)}, more than the {_points(limit)} allowed"
    else:
        decided = all(one.loss.high <= limit for one in judged)
        words = f"within the limit of {_points(limit)} points: the worst is {_lost(worst)}"
    if not decided:
        unsure = worst if over else max(judged, key=lambda one: one.loss.high)
        words += f"; not certain, for the interval of {_place(unsure)} reaches {_points(limit)}: ask more questions"
    blind = [one for one in losses if one.at_chance]
    small = [one for one in open_ if one not in told and one not in over]
    for some, why in (
        (blind, "the full model is not above chance there"),
        (small, f"the full model is not {_points(limit)} points above chance there, and cannot lose as many"),
    ):
        if some:
            words += f"; not judged, for {why}: {', '.join(dict.fromkeys(one.place for one in some))}"
    return Verdict(limit, COSTLY if over else WITHIN, decided, words, worst, tuple(losses))


def _losses(rows: Sequence[Row]) -> Iterator[Loss]:
    full = {(row.domain, row.protocol): row.accuracy.estimate for row in rows if row.versus is None}
    for row in rows:
        if row.versus is not None:
            lost = row.versus.accuracy_difference.negated
            room = full[row.domain, row.protocol] - row.chance
            yield Loss(row.model, row.domain, row.protocol, lost, not row.versus.full_above_chance, room)


def _thinking_losses(rows: Sequence[ThinkingRow]) -> Iterator[Loss]:
    """Accuracy at once and after a chain of thought, each against the full model's in the same mode."""
    full = {(row.domain, row.protocol): row.gains for row in rows if row.versus is None}
    for row in rows:
        if row.versus is not None:
            own = full[row.domain, row.protocol]
            for mode in MODES:
                change, before = (getattr(side, f"a_{mode}") for side in (row.versus, own))
                blind, room = before.low <= row.chance, before.estimate - row.chance
                yield Loss(row.label, row.domain, row.protocol, change.negated, blind, room, mode)


def _no_room(losses: Sequence[Loss], limit: float) -> str:
    if not losses:
        return "no domain was asked"
    if all(one.at_chance for one in losses):
        return "the full model is above chance in no domain, so accuracy cannot show a loss; read the answer NLL"
    return (
        f"the full model is more than {_points(limit)} points above chance in no domain, so accuracy cannot show a "
        "loss of this size; read the answer NLL"
    )


def _place(one: Loss) -> str:
    return f"{one.model} on {one.place}"


def _lost(one: Loss) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in (one.loss.low, one.loss.high))
    return f"{_place(one)} loses {100 * one.loss.estimate:.1f} points of accuracy [{low}, {high}]"


def _points(share: float) -> str:
    return f"{100 * share:g}"


def exit_code(status: str) -> int:
    """0 within the limit, 3 too costly, 1 where nothing can be told: a gate must not open for want of data."""
    return {WITHIN: 0, COSTLY: EXIT_TOO_COSTLY}.get(status, 1)
