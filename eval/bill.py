"""From samples to the bill of one domain and protocol: scores, and paired differences to the full model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.prose import Prose
from eval.running import Sample
from eval.statistics import (
    Interval,
    flips,
    mcnemar_exact,
    paired_accuracy_difference,
    paired_mean_difference,
    paired_ratio_difference,
    retained_above_chance,
    wilson,
)
from prune.errors import RegrowthError


@dataclass(frozen=True)
class Versus:
    """One model against the full one, on the same n questions; differences are this model - full.

    `retained_above_chance` is None where the full model is not above chance; `full_above_chance` says whether it is
    so beyond doubt (the lower end of its 95 % Wilson interval), without which the retained share is noise.
    """

    accuracy_difference: Interval
    answer_nll_bits_difference: Interval
    mcnemar_p: float
    lost: int
    gained: int
    retained_above_chance: float | None
    full_above_chance: bool


@dataclass(frozen=True)
class Row:
    """The bill of one model on one domain under one protocol.

    `accuracy` is of the reported verdict (acc_norm for choices, exact match for numbers), with Wilson's interval;
    `accuracy_raw` of the choice by plain log-likelihood. NLL in bits per answer. `versus` is None for the full model.
    """

    domain: str
    protocol: str
    model: str
    n: int
    chance: float
    accuracy: Interval
    accuracy_raw: float
    answer_nll_bits: float
    unparseable: float
    versus: Versus | None


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
    domain: str, protocol: str, model: str, chance: float, samples: Sequence[Sample], full: Sequence[Sample] | None
) -> Row:
    """Sum up one model's samples; with `full`, against the full model's.

    Raises:
        RegrowthError: the two are not answers to the same questions under the same prompts.
    """
    n = len(samples)
    if n < 2:
        raise RegrowthError(f"domain {domain} has {n} {protocol} question; an interval needs 2 at least")
    right = sum(s.correct for s in samples)
    versus = None
    if full is not None:
        full, samples = pair(full, samples)
        lost, gained = flips([s.correct for s in full], [s.correct for s in samples])
        versus = Versus(
            paired_accuracy_difference(lost, gained, n),
            paired_mean_difference([_nll(s) for s in full], [_nll(s) for s in samples]),
            mcnemar_exact(lost, gained),
            lost,
            gained,
            retained_above_chance(right / n, sum(s.correct for s in full) / n, chance),
            wilson(sum(s.correct for s in full), n).low > chance,
        )
    return Row(
        domain,
        protocol,
        model,
        n,
        chance,
        wilson(right, n),
        sum(s.correct_raw for s in samples) / n,
        sum(_nll(s) for s in samples) / n,
        sum(not s.parsed for s in samples) / n,
        versus,
    )


def _nll(sample: Sample) -> float:
    if sample.answer_nll_bits is None:
        raise RegrowthError(f"question {sample.id}: its answer was generated, not scored; it has no answer NLL")
    return sample.answer_nll_bits


def pair(full: Sequence[Sample], other: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Both models' samples in the full model's order, question by question.

    Raises:
        RegrowthError: a question that only one of them answered, or one that was asked in different words.
    """
    answers = {sample.id: sample for sample in other}
    unlike = {sample.id for sample in full} ^ set(answers)
    if unlike:
        raise RegrowthError(f"not paired: {len(unlike)} questions were asked of only one of the two models")
    for sample in full:
        if answers[sample.id].prompt_hash != sample.prompt_hash:
            raise RegrowthError(f"not paired: question {sample.id} was put to the two models in different prompts")
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
        intervals = ("accuracy_difference", "answer_nll_bits_difference")
        versus = Versus(**{**versus, **{key: Interval(**versus[key]) for key in intervals}})
    return Row(**{**raw, "accuracy": Interval(**raw["accuracy"]), "versus": versus})


def prose_row_from(raw: dict[str, Any]) -> ProseRow:
    """A prose row of comparison.json as the dataclass it was made from."""
    keys = ("difference", "difference_bits_per_byte")
    return ProseRow(**{**raw, **{key: None if raw[key] is None else Interval(**raw[key]) for key in keys}})
