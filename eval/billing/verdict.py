"""One verdict for every kind of limit: GO, NO-GO or INCONCLUSIVE, and how many questions more would decide.

`--max-loss 5%` is the simplest policy: one limit on the accuracy that any model may lose in any domain.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from eval.billing.bill import DomainRow
from eval.billing.statistics import Interval
from eval.billing.thinking import ThinkingRow
from eval.settings import MODES
from prune.common.errors import UsageError
from prune.common.terminal import EXIT_INCONCLUSIVE, EXIT_NO_GO

GO, NO_GO, INCONCLUSIVE = "GO", "NO-GO", "INCONCLUSIVE"
_TINY = 1e-9  # of accuracy: 0.30 - 0.25 is a hair less than 0.05


@dataclass(frozen=True)
class Loss:
    """What one model lost against the full one, and what that means for the limit; `docs/formats.md` tells the fields.

    `loss` is a share of the questions, negative for a gain. `at_chance`: the full model is not above chance beyond
    doubt. `more_questions` is None where the loss is decided, not judged, or so near the limit that no number would do.
    """

    model: str
    domain: str
    protocol: str
    loss: Interval
    n: int
    at_chance: bool
    room: float
    thinking: str | None = None
    decision: str | None = None
    more_questions: int | None = None

    @property
    def task(self) -> str:
        """What was asked: `math generation (slow thinking)`."""
        return f"{self.domain} {self.protocol}" + (f" ({self.thinking} thinking)" if self.thinking else "")


@dataclass(frozen=True)
class Verdict:
    """What a policy says of a comparison: NO-GO where any judged loss is, GO where all are, else INCONCLUSIVE.

    `worst` is the loss that decides, None where none could be judged. `losses`: those with something to lose come
    first, the largest before the others.
    """

    limit: float
    decision: str
    sentence: str
    worst: Loss | None
    losses: tuple[Loss, ...]


def decide(loss: Interval, limit: float) -> str:
    """GO where the whole interval is within the limit, NO-GO where all of it is beyond, else INCONCLUSIVE."""
    if loss.low > limit + _TINY:
        return NO_GO
    return GO if loss.high <= limit + _TINY else INCONCLUSIVE


def more_questions(loss: Interval, limit: float, n: int) -> int | None:
    """About how many questions beside the `n` asked would bring the interval to one side of the limit.

    The estimate is taken as it stands, and the interval's arm towards the limit shrinks with the square root of the
    number of questions. None where the estimate lies on the limit: then no number decides.
    """
    distance = abs(limit - loss.estimate)
    arm = loss.estimate - loss.low if loss.estimate > limit else loss.high - loss.estimate
    if distance <= _TINY:
        return None
    return max(0, math.ceil(n * (arm / distance) ** 2) - n)


def parse_limit(text: str) -> float:
    """`5%` as the share 0.05; a UsageError for what is no percentage from 0 to 100."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if match is None or float(match.group(1)) > 100:
        raise UsageError(f"--max-loss {text} is no percentage from 0% to 100%; write it as 5%")
    return float(match.group(1)) / 100


def judge(rows: Sequence[DomainRow], limit: float, thinking: Sequence[ThinkingRow] = ()) -> Verdict:
    """The verdict over all models but the full one, all domains, protocols and thinking modes.

    A loss is judged where the full model is above chance by more than the limit: any other could not lose as much, and
    so proves nothing. A loss that is larger than the limit all the same is judged too.
    """
    measured = [_decided(loss, limit) for loss in (*_losses(rows), *_thinking_losses(thinking))]
    losses = tuple(sorted(measured, key=lambda loss: (loss.at_chance, -loss.loss.estimate)))
    judged = [loss for loss in losses if loss.decision]
    beyond = [loss for loss in judged if loss.decision == NO_GO]
    undecided = [loss for loss in judged if loss.decision == INCONCLUSIVE]
    if not judged:
        return Verdict(limit, INCONCLUSIVE, f"{INCONCLUSIVE}: {_no_room(losses, limit)}", None, losses)
    if beyond:
        worst, decision = beyond[0], NO_GO
        words = f"{_lost(worst)}, more than the {_points(limit)} allowed"
    elif undecided:
        worst = max(undecided, key=lambda loss: math.inf if loss.more_questions is None else loss.more_questions)
        decision = INCONCLUSIVE
        words = f"{_lost(worst)}, and {_points(limit)} are allowed; {_how_many(worst)}"
    else:
        worst, decision = judged[0], GO
        words = f"within the limit of {_points(limit)} points: the worst is {_lost(worst)}"
    blind = [loss for loss in losses if loss.at_chance]
    small = [loss for loss in losses if not loss.at_chance and not loss.decision]
    for some, why in (
        (blind, "the full model is not above chance there"),
        (small, f"the full model is not {_points(limit)} points above chance there, and cannot lose as many"),
    ):
        if some:
            words += f"; not judged, for {why}: {', '.join(dict.fromkeys(loss.task for loss in some))}"
    return Verdict(limit, decision, f"{decision}: {words}", worst, losses)


def _decided(loss: Loss, limit: float) -> Loss:
    if loss.at_chance or (loss.room <= limit + _TINY and loss.loss.estimate <= limit + _TINY):
        return loss
    decision = decide(loss.loss, limit)
    more = more_questions(loss.loss, limit, loss.n) if decision == INCONCLUSIVE else None
    return replace(loss, decision=decision, more_questions=more)


def _losses(rows: Sequence[DomainRow]) -> Iterator[Loss]:
    full = {(row.domain, row.protocol): row.accuracy.estimate for row in rows if row.versus is None}
    for row in rows:
        if row.versus is not None:
            lost = row.versus.accuracy_difference.negated
            room = full[row.domain, row.protocol] - row.chance
            yield Loss(row.model, row.domain, row.protocol, lost, row.n, not row.versus.full_above_chance, room)


def _thinking_losses(rows: Sequence[ThinkingRow]) -> Iterator[Loss]:
    """Accuracy at once and after a chain of thought, each against the full model's in the same mode."""
    full = {(row.domain, row.protocol): row for row in rows if row.versus is None}
    for row in rows:
        if row.versus is not None:
            for mode in MODES:
                change, before = (getattr(side, f"a_{mode}") for side in (row.versus, full[row.domain, row.protocol]))
                blind, room = before.low <= row.chance, before.estimate - row.chance
                yield Loss(row.model, row.domain, row.protocol, change.negated, row.n, blind, room, mode)


def _how_many(loss: Loss) -> str:
    if loss.more_questions is None:
        return "the loss lies on the limit, so more questions would hardly decide"
    return f"about {rounded_up(loss.more_questions)} more questions there would decide"


def rounded_up(count: int) -> int:
    """Two leading digits: more would claim to know."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit


def _no_room(losses: Sequence[Loss], limit: float) -> str:
    if not losses:
        return "no domain was asked"
    if all(loss.at_chance for loss in losses):
        return "the full model is above chance in no domain, so accuracy cannot show a loss; read the answer NLL"
    return (
        f"the full model is more than {_points(limit)} points above chance in no domain, so accuracy cannot show a "
        "loss of this size; read the answer NLL"
    )


def _lost(loss: Loss) -> str:
    low, high = (f"{100 * bound:.1f}" for bound in (loss.loss.low, loss.loss.high))
    return f"{loss.model} on {loss.task} loses {100 * loss.loss.estimate:.1f} points of accuracy [{low}, {high}]"


def _points(share: float) -> str:
    return f"{100 * share:g}"


def exit_code(decision: str) -> int:
    """0 for GO, 3 for NO-GO, 4 for INCONCLUSIVE: too few questions must not open a gate."""
    return {GO: 0, NO_GO: EXIT_NO_GO, INCONCLUSIVE: EXIT_INCONCLUSIVE}[decision]
