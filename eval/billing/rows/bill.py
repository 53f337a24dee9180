"""From samples to the bill of one domain and protocol: scores, and paired differences to the full model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.asking.tasks import TaskPlan
from eval.billing.statistics import (
    Interval,
    accuracy_difference,
    accuracy_of,
    flips,
    holm,
    mcnemar_exact,
    paired_mean_difference,
    paired_ratio_difference,
    retained_above_chance,
    retained_interval,
)
from eval.runs.prose import Prose
from eval.runs.samples import Sample
from prune.common.errors import RegrowthError

FEW = 30  # questions; below this an interval says little, and the table says so


@dataclass(frozen=True)
class Versus:
    """One model against the full one, on the same n questions; differences are this model - full.

    `docs/formats.md` tells the fields. `full_above_chance`: the lower end of the full model's 95 % Wilson interval is.
    `noise`: names of the differences that are within the noise floor (`eval.billing.noise`), None where it was not
    measured.
    """

    accuracy_difference: Interval
    accuracy_raw_difference: Interval
    answer_nll_bits_difference: Interval | None
    mcnemar_p: float
    mcnemar_p_holm: float
    lost: int
    gained: int
    retained_above_chance: float | None
    retained_interval: Interval | None
    full_above_chance: bool
    answer_nll_bits_per_byte_difference: Interval | None
    noise: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DomainRow:
    """The bill of one model on one domain under one protocol; `docs/formats.md` tells the fields.

    `accuracy` is of the reported verdict (acc_norm for choices, exact match for numbers), with Wilson's interval;
    `accuracy_raw` of the choice by plain log-likelihood. NLLs are None where no answer was scored: so it is with texts
    that another program had generated.
    """

    domain: str
    protocol: str
    model: str
    n: int
    clusters: int
    few: bool
    chance: float
    accuracy: Interval
    accuracy_raw: float
    answer_nll_bits: float | None
    unparseable: float
    versus: Versus | None
    answer_bytes: float


@dataclass(frozen=True)
class ProseRow:
    """Held-out prose loss of one model; the differences (model - full) are None for the full model.

    `noise` as in `Versus`.
    """

    text: str
    model: str
    nats_per_token: float
    bits_per_byte: float
    windows: int
    difference: Interval | None
    difference_bits_per_byte: Interval | None
    noise: tuple[str, ...] | None = None


def bill(plan: TaskPlan, model: str, samples: Sequence[Sample], full: Sequence[Sample] | None) -> DomainRow:
    """Sum up one model's samples of a task; with `full`, against the full model's.

    Raises:
        RegrowthError: the two are not answers to the same questions under the same prompts.
    """
    domain, protocol, sizes = plan.domain, plan.protocol, plan.answer_bytes
    full, samples = (None, samples) if full is None else pair(full, samples, f" ({model}, {domain} {protocol})")
    n, clusters = len(samples), len({s.unit for s in samples})
    if n < 2:
        raise RegrowthError(f"domain {domain} has {n} {protocol} question; an interval needs 2 at least")
    if clusters < 2:
        raise RegrowthError(f"all {n} {protocol} questions of domain {domain} share one passage: one observation")
    return DomainRow(
        domain=domain,
        protocol=protocol,
        model=model,
        n=n,
        clusters=clusters,
        few=n < FEW,
        chance=plan.chance,
        accuracy=_accuracy(samples),
        accuracy_raw=sum(s.correct_raw for s in samples) / n,
        answer_nll_bits=sum(map(answer_nll, samples)) / n if scored(samples) else None,
        unparseable=sum(not s.parsed for s in samples) / n,
        versus=None if full is None else _versus(full, samples, plan.chance, sizes),
        answer_bytes=sum(sizes[s.id] for s in samples) / n,
    )


def _versus(full: Sequence[Sample], samples: Sequence[Sample], chance: float, sizes: Mapping[str, int]) -> Versus:
    units = [s.unit for s in full]
    before, after = [s.correct for s in full], [s.correct for s in samples]
    raw = [s.correct_raw for s in full], [s.correct_raw for s in samples]
    per_answer = per_byte = None
    if scored([*full, *samples]):
        nll = [answer_nll(s) for s in full], [answer_nll(s) for s in samples]
        per_answer = paired_mean_difference(*nll, units)
        per_byte = paired_ratio_difference(*nll, [sizes[s.id] for s in full], units)
    lost, gained = flips(before, after)
    p = mcnemar_exact(lost, gained)
    return Versus(
        accuracy_difference=accuracy_difference(before, after, units),
        accuracy_raw_difference=accuracy_difference(*raw, units),
        answer_nll_bits_difference=per_answer,
        mcnemar_p=p,
        mcnemar_p_holm=p,
        lost=lost,
        gained=gained,
        retained_above_chance=retained_above_chance(sum(after) / len(after), sum(before) / len(before), chance),
        retained_interval=retained_interval(before, after, chance, units),
        full_above_chance=_accuracy(full).low > chance,
        answer_nll_bits_per_byte_difference=per_byte,
    )


def _accuracy(samples: Sequence[Sample]) -> Interval:
    return accuracy_of([s.correct for s in samples], [s.unit for s in samples])


def corrected(rows: Sequence[DomainRow]) -> list[DomainRow]:
    """The rows with `mcnemar_p_holm` corrected over the domains and protocols of each model."""
    compared: dict[str, list[Versus]] = {}
    for row in rows:
        if row.versus is not None:
            compared.setdefault(row.model, []).append(row.versus)
    values = {model: iter(holm([versus.mcnemar_p for versus in losses])) for model, losses in compared.items()}
    return [
        row if row.versus is None else replace(row, versus=replace(row.versus, mcnemar_p_holm=next(values[row.model])))
        for row in rows
    ]


def scored(samples: Iterable[Sample]) -> bool:
    """Whether the right answers were scored; False where they were generated, one and all."""
    return any(sample.answer_nll_bits is not None for sample in samples)


def answer_nll(sample: Sample) -> float:
    """A sample's answer NLL in bits; a RegrowthError where its answer was generated, not scored."""
    if sample.answer_nll_bits is None:
        raise RegrowthError(f"question {sample.id}: its answer was generated, not scored; it has no answer NLL")
    return sample.answer_nll_bits


def pair(full: Sequence[Sample], other: Sequence[Sample], where: str = "") -> tuple[list[Sample], list[Sample]]:
    """Both models' samples in the full model's order, question by question; `where` tells an error what they are.

    Raises:
        RegrowthError: a question that only one of them answered, or one that was asked in different words.
    """
    answers = {sample.id: sample for sample in other}
    if full and not {sample.id for sample in full} & set(answers):
        raise RegrowthError(f"not paired{where}: the two models have no question in common")
    if unlike := {sample.id for sample in full} ^ set(answers):
        raise RegrowthError(f"not paired{where}: {len(unlike)} questions were asked of only one of the two models")
    for sample in full:
        if answers[sample.id].prompt_hash != sample.prompt_hash:
            raise RegrowthError(f"not paired{where}: question {sample.id} was put in different prompts")
    return list(full), [answers[sample.id] for sample in full]


def bill_nf4(model: str, prose: Mapping[str, Prose], stored: Mapping[str, Prose]) -> tuple[ProseRow, ...]:
    """What NF4 alone costs a model, text by text: its losses in NF4 against those on its weights as stored."""
    return tuple(bill_prose(model, name, prose[name], stored[name]) for name in stored)


def bill_prose(model: str, text: str, prose: Prose, full: Prose | None) -> ProseRow:
    """Sum up one model's held-out loss on one text; with `full`, against the full model's, window by window.

    Raises:
        RegrowthError: the two were not measured on the same token windows.
    """
    per_token = per_byte = None
    if full is not None:
        if full.sha256 != prose.sha256:
            raise RegrowthError(f"not paired: {model} cuts the prose {text!r} into other tokens than the full model")
        if len(full.windows) > 1:
            before, after = ([w.nats for w in p.windows] for p in (full, prose))
            bits_before, bits_after = ([nats / math.log(2) for nats in side] for side in (before, after))
            per_token = paired_ratio_difference(before, after, [w.tokens for w in prose.windows])
            per_byte = paired_ratio_difference(bits_before, bits_after, [w.bytes for w in prose.windows])
    return ProseRow(text, model, prose.nats_per_token, prose.bits_per_byte, len(prose.windows), per_token, per_byte)
