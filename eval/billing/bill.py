"""From samples to the bill of one domain and protocol: scores, and paired differences to the full model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.billing.statistics import (
    Interval,
    design_of,
    flips,
    holm,
    mcnemar_exact,
    paired_accuracy_difference,
    paired_mean_difference,
    paired_ratio_difference,
    retained_above_chance,
    retained_interval,
    wilson,
)
from eval.runs.prose import Prose
from eval.runs.samples import Sample
from prune.common.errors import RegrowthError

FEW = 30  # questions; below this an interval says little, and the table says so


@dataclass(frozen=True)
class Versus:
    """One model against the full one, on the same n questions; differences are this model - full.

    `mcnemar_p_holm` is corrected over all rows of the model. `retained_above_chance` is None where the full model is
    not above chance, and `retained_interval` where it is so little that the ratio has no bound; `full_above_chance`
    says whether it is so beyond doubt (the lower end of its 95 % Wilson interval). The answer NLL's difference per byte
    of the right answers is for comparing domains, whose answers differ in length; None where it was not measured.
    """

    accuracy_difference: Interval
    accuracy_raw_difference: Interval
    answer_nll_bits_difference: Interval
    mcnemar_p: float
    mcnemar_p_holm: float
    lost: int
    gained: int
    retained_above_chance: float | None
    retained_interval: Interval | None
    full_above_chance: bool
    answer_nll_bits_per_byte_difference: Interval | None = None


@dataclass(frozen=True)
class Row:
    """The bill of one model on one domain under one protocol.

    `accuracy` is of the reported verdict (acc_norm for choices, exact match for numbers), with Wilson's interval;
    `accuracy_raw` of the choice by plain log-likelihood. NLL in bits per answer. `clusters` counts passages, each
    question without one for itself; `few` warns of less than 30 questions. `versus` is None for the full model.
    `answer_bytes`: mean UTF-8 bytes of the right answers.
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
    answer_nll_bits: float
    unparseable: float
    versus: Versus | None
    answer_bytes: float | None = None


@dataclass(frozen=True)
class ProseRow:
    """Held-out prose loss of one model; the differences (model - full) are None for the full model.

    `difference` is in nats per token, `difference_bits_per_byte` in bits per UTF-8 byte.
    """

    text: str
    model: str
    nats_per_token: float
    bits_per_byte: float
    windows: int
    difference: Interval | None
    difference_bits_per_byte: Interval | None


def bill(
    domain: str,
    protocol: str,
    model: str,
    chance: float,
    samples: Sequence[Sample],
    full: Sequence[Sample] | None,
    sizes: Mapping[str, int] | None = None,
) -> Row:
    """Sum up one model's samples; with `full`, against the full model's. `sizes`: bytes of the right answers, by id.

    Raises:
        RegrowthError: the two are not answers to the same questions under the same prompts.
    """
    full, samples = (None, samples) if full is None else pair(full, samples, f" ({model}, {domain} {protocol})")
    n, clusters = len(samples), len({s.unit for s in samples})
    if n < 2:
        raise RegrowthError(f"domain {domain} has {n} {protocol} question; an interval needs 2 at least")
    if clusters < 2:
        raise RegrowthError(
            f"all {n} {protocol} questions of domain {domain} share one passage; that is one observation"
        )
    return Row(
        domain=domain,
        protocol=protocol,
        model=model,
        n=n,
        clusters=clusters,
        few=n < FEW,
        chance=chance,
        accuracy=_accuracy(samples),
        accuracy_raw=sum(s.correct_raw for s in samples) / n,
        answer_nll_bits=sum(_nll(s) for s in samples) / n,
        unparseable=sum(not s.parsed for s in samples) / n,
        versus=None if full is None else _versus(full, samples, chance, sizes),
        answer_bytes=None if sizes is None else sum(sizes[s.id] for s in samples) / n,
    )


def _versus(
    full: Sequence[Sample], samples: Sequence[Sample], chance: float, sizes: Mapping[str, int] | None
) -> Versus:
    units = [s.unit for s in full]
    before, after = [s.correct for s in full], [s.correct for s in samples]
    lost, gained = flips(before, after)
    p = mcnemar_exact(lost, gained)
    nll = [_nll(s) for s in full], [_nll(s) for s in samples]
    return Versus(
        accuracy_difference=difference_of_verdicts(before, after, units),
        accuracy_raw_difference=difference_of_verdicts(
            [s.correct_raw for s in full], [s.correct_raw for s in samples], units
        ),
        answer_nll_bits_difference=paired_mean_difference(*nll, units),
        mcnemar_p=p,
        mcnemar_p_holm=p,
        lost=lost,
        gained=gained,
        retained_above_chance=retained_above_chance(sum(after) / len(after), sum(before) / len(before), chance),
        retained_interval=retained_interval(before, after, chance, units),
        full_above_chance=_accuracy(full).low > chance,
        answer_nll_bits_per_byte_difference=None
        if sizes is None
        else paired_ratio_difference(*nll, [sizes[s.id] for s in full], units),
    )


def _accuracy(samples: Sequence[Sample]) -> Interval:
    return accuracy_of([s.correct for s in samples], [s.unit for s in samples])


def accuracy_of(verdicts: Sequence[bool], units: Sequence[str]) -> Interval:
    """Share of right verdicts with its interval; `units` names what is independent."""
    design, clusters = design_of([float(verdict) for verdict in verdicts], units)
    return wilson(sum(verdicts), len(verdicts), design=design, clusters=clusters)


def difference_of_verdicts(before: Sequence[bool], after: Sequence[bool], units: Sequence[str]) -> Interval:
    """Accuracy after - before on the same questions, with its interval; `units` names what is independent."""
    lost, gained = flips(before, after)
    design, clusters = design_of([float(a) - float(b) for b, a in zip(before, after, strict=True)], units)
    return paired_accuracy_difference(lost, gained, len(before), design=design, clusters=clusters)


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with `mcnemar_p_holm` corrected over the domains and protocols of each model."""
    places = {
        model: [i for i, r in enumerate(rows) if r.model == model and r.versus] for model in {r.model for r in rows}
    }
    found = list(rows)
    for own in places.values():
        for place, p in zip(own, holm([v.mcnemar_p for i in own if (v := rows[i].versus)]), strict=True):
            versus = rows[place].versus
            assert versus is not None
            found[place] = replace(rows[place], versus=replace(versus, mcnemar_p_holm=p))
    return found


def _nll(sample: Sample) -> float:
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
    unlike = {sample.id for sample in full} ^ set(answers)
    if unlike:
        raise RegrowthError(f"not paired{where}: {len(unlike)} questions were asked of only one of the two models")
    for sample in full:
        if answers[sample.id].prompt_hash != sample.prompt_hash:
            raise RegrowthError(
                f"not paired{where}: question {sample.id} was put to the two models in different prompts"
            )
    return list(full), [answers[sample.id] for sample in full]


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


def row_from(raw: dict[str, Any]) -> Row:
    """A row of comparison.json as the dataclass it was made from."""
    versus = raw["versus"]
    if versus is not None:
        keys = ["accuracy_difference", "accuracy_raw_difference", "answer_nll_bits_difference", "retained_interval"]
        keys += ["answer_nll_bits_per_byte_difference"]
        versus = Versus(**{**versus, **{key: interval_from(versus.get(key)) for key in keys}})
    return Row(**{**raw, "accuracy": Interval(**raw["accuracy"]), "versus": versus})


def prose_row_from(raw: dict[str, Any]) -> ProseRow:
    """A prose row of comparison.json as the dataclass it was made from."""
    keys = ("difference", "difference_bits_per_byte")
    return ProseRow(**{**raw, **{key: interval_from(raw[key]) for key in keys}})


def interval_from(raw: dict[str, float] | None) -> Interval | None:
    """An interval of comparison.json; None stays None."""
    return None if raw is None else Interval(**raw)
