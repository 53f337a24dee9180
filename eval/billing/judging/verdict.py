"""One verdict for every kind of limit: GO, NO-GO or INCONCLUSIVE, and how many questions more would decide.

The limits are those of a policy (`eval.billing.judging.policy`); `--max-loss 5%` is the simplest one. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eval.billing.judging.losses import IN_POINTS, MEASURES, Loss, of_domains, of_needles, of_prose, of_thinking
from eval.billing.judging.policy import TIERS, Policy
from eval.billing.judging.reached import GainAsked, gains_asked
from eval.billing.rows.bill import DomainRow, ProseRow
from eval.billing.rows.needles import NeedleRow
from eval.billing.rows.thinking import ThinkingRow
from eval.billing.statistics import Interval, questions_factor
from eval.gains.record import Gains
from prune.common.checked import checks_arguments
from prune.common.screen.terminal import EXIT_INCONCLUSIVE, EXIT_NO_GO

GO, NO_GO, INCONCLUSIVE = "GO", "NO-GO", "INCONCLUSIVE"
_TAKES = {  # what a loss is measured by, where it can be missing all the same
    "answer_bits_per_byte": "it takes right answers that were scored",
    "needle_recall": "it takes two needles that no model knows without the text",
    "prose_bits_per_byte": "it takes two windows of a text",
}
_SCATTER = ": its rounds scatter too far to tell"
_TINY = 1e-9  # of accuracy: 0.30 - 0.25 is a hair less than 0.05


@dataclass(frozen=True)
class Unmeasured:
    """A measure that `must` limits, and of which a model has no loss; `what` it is of, "" where of no domain."""

    model: str
    what: str
    measure: str


@dataclass(frozen=True)
class ModelVerdict:
    """The verdict on one model alone."""

    model: str
    decision: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What a policy says of a comparison: NO-GO where any judged loss or gain is, GO where all are, else INCONCLUSIVE.

    `worst` is the loss that decides, None where none does. `losses`: those with something to lose come first, strict
    tiers and large losses before others. `models`: the same said of each model alone.
    """

    policy: Policy
    decision: str
    sentence: str
    worst: Loss | None
    losses: tuple[Loss, ...]
    gains: tuple[GainAsked, ...]
    models: tuple[ModelVerdict, ...]


def decide(loss: Interval, limit: float) -> str:
    """GO where the whole interval is within the limit, NO-GO where all of it is beyond, else INCONCLUSIVE."""
    if loss.low > limit + _TINY:
        return NO_GO
    return GO if loss.high <= limit + _TINY else INCONCLUSIVE


def more_questions(loss: Interval, limit: float, n: int) -> int | None:
    """How many questions beside the `n` asked would decide in 80 % of runs, were the loss as large as it was measured.

    n ((z_0.975 + z_0.8) s / d)^2 - n, where d is the distance from the estimate to the limit, and s the paired standard
    error, which the interval's arm towards the limit (z_0.975 s) tells; it shrinks with the square root of the number
    of questions. None where the estimate lies on the limit: then no number decides.
    """
    if abs(limit - loss.estimate) <= _TINY:
        return None
    factor = questions_factor(Interval(loss.estimate - limit, loss.low - limit, loss.high - limit))
    return None if factor is None else max(0, math.ceil(n * factor) - n)


@checks_arguments
def judge(
    rows: Sequence[DomainRow],
    policy: Policy,
    *,
    thinking: Sequence[ThinkingRow] = (),
    needles: Sequence[NeedleRow] = (),
    prose: Sequence[ProseRow] = (),
    gains: Gains | None = None,
    models: Sequence[str] = (),
) -> Verdict:
    """The verdict over all models but the full one.

    `models`: the labels of all of these; without it, a model of which nothing was measured is in no verdict.

    What `must` limits and was not measured of a model is INCONCLUSIVE: it was not shown to hold. An accuracy is judged
    where the full model is above chance by more than the limit: any other could not lose as much, and so proves
    nothing. A loss that is larger than the limit all the same is judged too.
    """
    measured = [*of_domains(rows), *of_thinking(thinking), *of_needles(needles), *of_prose(prose)]
    limited = [_limited(loss, policy) for loss in measured]
    losses = [_decided(loss, policy) for loss in limited if loss.limit is not None]
    order = {name: number for number, name in enumerate((*TIERS, *MEASURES))}
    losses.sort(key=lambda one: (one.at_chance, order[one.tier], order[one.measure], -one.loss.estimate))
    others = () if gains is None else (each.model for each in gains.models if each.ratio)
    labels = list(dict.fromkeys([*models, *(loss.model for loss in measured), *others]))
    missing = [found for label in labels for found in _unmeasured(label, policy, measured, prose)]
    asked = [replace(gain, decision=_reached(gain)) for gain in gains_asked(policy, gains, labels)]
    decision, sentence, worst = _sum_up(policy, losses, asked, measured, labels, missing)
    return Verdict(
        policy,
        decision,
        f"{decision}: {sentence}",
        worst,
        tuple(losses),
        tuple(asked),
        tuple(_of_model(label, policy, losses, asked, measured, missing) for label in labels),
    )


def _of_model(
    label: str,
    policy: Policy,
    losses: Sequence[Loss],
    gains: Sequence[GainAsked],
    measured: Sequence[Loss],
    missing: Sequence[Unmeasured],
) -> ModelVerdict:
    own = [loss for loss in losses if loss.model == label]
    reached = [gain for gain in gains if gain.model == label]
    lacks = [one for one in missing if one.model == label]
    decision, sentence, _ = _sum_up(policy, own, reached, measured, [label], lacks)
    return ModelVerdict(label, decision, f"{decision}: {sentence}")


def _unmeasured(label: str, policy: Policy, measured: Sequence[Loss], prose: Sequence[ProseRow]) -> list[Unmeasured]:
    """What `must` limits, and of which a model has no loss: each measure, each text, each domain that is named."""
    own = [loss for loss in measured if loss.model == label]
    found = []
    for measure in policy.demanded:
        texts = [f"prose {name}" for name in dict.fromkeys(row.text for row in prose)]
        if measure == "prose_bits_per_byte" and texts:
            shown = {loss.domain for loss in own}
            found += [Unmeasured(label, text, measure) for text in texts if text not in shown]
        elif all(loss.measure != measure for loss in own):
            found.append(Unmeasured(label, "", measure))
    lacking = {one.measure for one in found}
    for domain in policy.proved:
        shown = {loss.measure for loss in own if loss.domain == domain}
        limits = policy.of_domain(domain)[1]
        found += [Unmeasured(label, domain, one) for one in limits if one not in shown and one not in lacking]
    return found


def _limited(loss: Loss, policy: Policy) -> Loss:
    """The loss with the tier and the limit that the policy has for it."""
    if loss.measure in ("needle_recall", "prose_bits_per_byte"):
        tier, limit = policy.of_measure(loss.measure) or ("told", None)
    else:
        tier, limits = policy.of_domain(loss.domain)
        limit = limits.get(loss.measure)
    if limit is None:
        return replace(loss, tier="told")
    return replace(loss, tier=tier, limit=limit / 100 if loss.measure in IN_POINTS else limit)


def _decided(loss: Loss, policy: Policy) -> Loss:
    if loss.limit is None or loss.at_chance:
        return loss
    if loss.room is not None and loss.room <= loss.limit + _TINY and loss.loss.estimate <= loss.limit + _TINY:
        return loss
    decision, fewer = decide(loss.loss, loss.limit), policy.least_questions - loss.n
    if loss.unit == "question" and fewer > 0:
        more = more_questions(loss.loss, loss.limit, loss.n) if decision == INCONCLUSIVE else 0
        return replace(loss, decision=INCONCLUSIVE, more_questions=None if more is None else max(fewer, more))
    more = more_questions(loss.loss, loss.limit, loss.n) if decision == INCONCLUSIVE else None
    return replace(loss, decision=decision, more_questions=more)


def _reached(gain: GainAsked) -> str:
    return INCONCLUSIVE if gain.shortfall is None else decide(gain.shortfall, 0.0)


def _sum_up(
    policy: Policy,
    losses: Sequence[Loss],
    gains: Sequence[GainAsked],
    measured: Sequence[Loss],
    models: Sequence[str],
    missing: Sequence[Unmeasured],
) -> tuple[str, str, Loss | None]:
    """Decision, its sentence, and the loss that decides; `measured`: losses that have no limit among them."""
    held = [loss for loss in losses if loss.tier != "told"]
    judged = [loss for loss in held if loss.decision]
    open_ = [loss for loss in judged if loss.tier == "must" and loss.decision == INCONCLUSIVE]
    beyond = [loss for loss in judged if loss.decision == NO_GO]
    unproved = _unproved(policy, held, models)
    missed = [gain for gain in gains if gain.decision == NO_GO]
    unsure = [gain for gain in gains if gain.decision == INCONCLUSIVE]
    if beyond or missed:
        worst = max(beyond, key=_distance, default=None)
        told = [] if worst is None else [f"{worst.in_words()}, more than the {worst.allowed()} allowed"]
        told += [gain.in_words() for gain in missed]
        others = len(beyond) - (worst is not None)
        return (
            NO_GO,
            "; ".join([*told, *_counted(others, "loss is beyond its limit", "losses are beyond their limits")]),
            worst,
        )
    notes = _not_judged(held)
    if open_ or unproved or unsure or missing:
        worst = max(open_, key=lambda one: math.inf if one.more_questions is None else one.more_questions, default=None)
        told = (
            []
            if worst is None
            else [f"{worst.in_words()}, and {worst.allowed()} are allowed; {_how_many(worst, policy)}"]
        )
        told += _counted(max(0, len(open_) - 1), "loss is open", "losses are open")
        told += [f"{gain.in_words()}{'' if gain.ratio is None else _SCATTER}" for gain in unsure]
        told += [f"{domain} must hold, and nothing of it can be judged" for domain in unproved]
        told += _not_measured([one for one in missing if one.what not in unproved])
        return INCONCLUSIVE, "; ".join([*told, *notes]), worst
    if not judged and not gains:
        return INCONCLUSIVE, _nothing_judged(policy, measured, held), None
    worst = max(judged, key=_distance, default=None)
    told = ["every gain is reached"] if worst is None else [_within(worst)]
    return GO, "; ".join([*told, *_spared(judged), *notes]), worst


def _distance(loss: Loss) -> float:
    """How far beyond its limit a loss is, by the width of its interval: so measures of two units compare."""
    return (loss.loss.estimate - (loss.limit or 0.0)) / max(loss.loss.high - loss.loss.low, _TINY)


def _unproved(policy: Policy, held: Sequence[Loss], models: Sequence[str]) -> list[str]:
    """Domains that must hold by name, and of which nothing is judged of one of the models."""
    shown = {(loss.model, loss.domain) for loss in held if loss.decision}
    return [domain for domain in policy.proved if any((model, domain) not in shown for model in models)]


def _within(worst: Loss) -> str:
    if worst.decision == GO:
        return f"every loss is within its limit: the nearest is {worst.in_words()}, of {worst.allowed()} allowed"
    return f"no loss is beyond its limit for certain: the nearest is {worst.in_words()}, of {worst.allowed()} allowed"


def _spared(judged: Sequence[Loss]) -> list[str]:
    """Losses of tier `should` that may be beyond their limits, and pass."""
    open_ = [loss.task for loss in judged if loss.tier == "should" and loss.decision == INCONCLUSIVE]
    return [f"should hold, and not proved: {_listed(open_)}"] if open_ else []


def _not_judged(held: Sequence[Loss]) -> list[str]:
    blind = [loss for loss in held if loss.at_chance]
    small = [loss for loss in held if not loss.at_chance and not loss.decision]
    told = []
    if blind:
        told.append(f"not judged, for the full model is not above chance there: {_listed(loss.task for loss in blind)}")
    for limit in dict.fromkeys(loss.allowed() for loss in small):
        tasks = _listed(loss.task for loss in small if loss.allowed() == limit)
        why = f"the full model is not {limit} points above chance there, and cannot lose as many"
        told.append(f"not judged, for {why}: {tasks}")
    return told


def _not_measured(missing: Sequence[Unmeasured]) -> list[str]:
    models: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        models.setdefault((one.measure, one.what), []).append(one.model)
    return [
        f"must limits {measure}, and it could not be measured of {_listed(labels)}{f' on {what}' if what else ''}"
        + (f": {_TAKES[measure]}" if measure in _TAKES else "")
        for (measure, what), labels in models.items()
    ]


def _nothing_judged(policy: Policy, measured: Sequence[Loss], held: Sequence[Loss]) -> str:
    if not measured:
        return "no gain could be measured" if policy.gains else "no domain was asked"
    if not held:
        return "the policy has no limit for anything that was asked"
    if all(loss.at_chance for loss in held):
        return "the full model is above chance in no domain, so accuracy cannot show a loss; read the answer NLL"
    limits = {loss.allowed() for loss in held}
    points = f"{limits.pop()} points" if len(limits) == 1 else "its limit"
    return (
        f"the full model is more than {points} above chance in no domain, so accuracy cannot show a loss of this size; "
        "read the answer NLL"
    )


def _how_many(loss: Loss, policy: Policy) -> str:
    if loss.unit == "question" and loss.n < policy.least_questions:
        told = f"{loss.n} questions are fewer than the {policy.least_questions} that the policy asks for"
        return told if loss.more_questions is None else f"{told}; {rounded_up(loss.more_questions)} more may decide"
    if loss.more_questions is None:
        return f"the loss lies on the limit, so more {loss.unit}s would hardly decide"
    return f"about {rounded_up(loss.more_questions)} more {loss.unit}s there would decide"


def _counted(number: int, one: str, many: str) -> list[str]:
    return [f"{number} more {one if number == 1 else many}"] if number else []


def _listed(tasks: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(tasks))


def rounded_up(count: int) -> int:
    """Two leading digits: more would claim to know."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit


def exit_code(decision: str) -> int:
    """0 for GO, 3 for NO-GO, 4 for INCONCLUSIVE: too few questions must not open a gate."""
    return {GO: 0, NO_GO: EXIT_NO_GO, INCONCLUSIVE: EXIT_INCONCLUSIVE}[decision]
