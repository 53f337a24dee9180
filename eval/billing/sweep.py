"""sweep.json: every variant (the model without one block) on the same questions; a difference is variant - full."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from eval.billing.rows.bill import ProseRow
from eval.billing.statistics import Interval
from prune.common.files.artefact import Artefact, Part

_NLL_DIFFERENCE = Field(description="change of answer NLL, bits per answer")
_PER_BYTE = Field(description="change of answer NLL, bits per byte of the right answers")
_ACCURACY_DIFFERENCE = Field(description="change of accuracy; null for generation")
_CHANCE = Field(description="accuracy of blind guesses; null for generation")


class VariantRecord(Part):
    """A variant."""

    label: str = Field(description="`full`, `4@12` for four layers from layer 12 on, `4@12+name` with an adapter")
    n: int = Field(description="layers dropped")
    start: int | None = Field(description="the first of them; null for the full model")
    dropped: tuple[int, ...] = Field(description="all of them")
    adapter: str | None = Field(description="name of the healing adapter at work")


class OfTask(Part):
    """What is said of a task."""

    domain: str = Field(description="of the task")
    protocol: str = Field(description="choice, letters or generation")


class TaskRecord(OfTask):
    """A task."""

    n: int = Field(description="questions")
    chance: float | None = _CHANCE


class OfVariant(Part):
    """What is said of a variant."""

    variant: str = Field(description="label of the variant")
    size: int = Field(description="layers dropped")
    start: int | None = Field(description="the first of them; null for the full model")


class Scores(OfVariant):
    """A variant's scores on a task."""

    accuracy: Interval | None = Field(description="of acc_norm; null for generation, which a shared walk cannot do")
    answer_greedy: float | None = Field(
        description="generation only: share of questions where each token of the key's answer is the most likely one"
    )
    answer_nll_bits: Interval = Field(description="mean NLL of the key's answer, bits")


class VariantVersus(Part):
    """A variant against the full model; all but the NLL is null for generation."""

    answer_nll_bits_difference: Interval = _NLL_DIFFERENCE
    answer_nll_bits_per_byte_difference: Interval = _PER_BYTE
    accuracy_difference: Interval | None = _ACCURACY_DIFFERENCE
    mcnemar_p: float | None = Field(None, description="exact McNemar test of lost against gained")
    lost: int | None = Field(None, description="questions right in the full model alone")
    gained: int | None = Field(None, description="questions right in the variant alone")
    retained_above_chance: float | None = Field(None, description="share of the full model's accuracy above chance")
    retained_interval: Interval | None = Field(None, description="its interval; null where it has no end")
    full_above_chance: bool | None = Field(None, description="whether the full model is above chance beyond doubt")


class VariantRow(Scores, OfTask):
    """A variant on a task."""

    adapter: str | None = Field(description="name of the healing adapter at work")
    n: int = Field(description="questions")
    chance: float | None = _CHANCE
    accuracy_raw: float | None = Field(description="of the choice by plain log-likelihood")
    versus: VariantVersus | None = Field(description="against the full model; null for it")


class CurvePoint(Scores):
    """A variant in a curve; the differences are null for the full model."""

    answer_nll_bits_difference: Interval | None = _NLL_DIFFERENCE
    answer_nll_bits_per_byte_difference: Interval | None = _PER_BYTE
    accuracy_difference: Interval | None = _ACCURACY_DIFFERENCE


class TaskCurve(OfTask):
    """A task's points."""

    chance: float | None = _CHANCE
    points: tuple[CurvePoint, ...] = Field(description="one a size, rising")


class HealedPoint(CurvePoint, OfTask):
    """An adapter on a task."""


_Grid = tuple[tuple[float | None, ...], ...]


class BlockMap(OfTask):
    """A task's change by size (rows) and start (columns); null where no variant was measured."""

    sizes: tuple[int, ...] = Field(description="of the rows")
    starts: tuple[int, ...] = Field(description="of the columns")
    answer_nll_bits_difference: _Grid = _NLL_DIFFERENCE
    accuracy_difference: _Grid | None = _ACCURACY_DIFFERENCE


class VariantProse(OfVariant):
    """A variant on held-out prose."""

    text: str = Field(description="name of the text")
    nats_per_token: float = Field(description="mean NLL")
    bits_per_byte: float = Field(description="the same, which compares across tokenizers")
    windows: int = Field(description="how many were scored")
    difference: Interval | None = Field(description="nats per token; null for the full model")
    difference_bits_per_byte: Interval | None = Field(description="bits per byte; null for the full model")


class WalkRecord(Part):
    """How the questions were read."""

    path: str = Field(
        description="tree: contexts shared under a tree mask; plain: one row per request; whole: as plain, and the "
        "head sees every position, for models whose norm or head looks beyond one"
    )
    why: str | None = Field(description="why it is not tree")
    layer_passes: int = Field(description="layers that the walk ran")
    relative_passes: float = Field(description="those over L")
    requests: int = Field(description="unlike requests")
    tokens: int = Field(description="tokens run once per pass")
    tokens_one_by_one: int = Field(description="tokens that one evaluation of one model reads")
    head_positions: int = Field(description="positions that met the head")


class Cost(Part):
    """What it took."""

    seconds: dict[str, float] = Field(description="by stage, such as load and walk")
    peak_memory: dict[str, int] = Field(description="bytes; `cuda_bytes`: the most that any GPU held")


class SweepRecord(Artefact):
    """sweep.json."""

    AGAIN: ClassVar[str] = "sweep again with `evaluate sweep`"

    format: Literal["regrowth.sweep/2"] = "regrowth.sweep/2"
    layers: int = Field(description="L")
    sizes: tuple[int, ...] = Field(description="block sizes that were asked")
    starts: str | tuple[int, ...] = Field(description="best, deepest, all or start layers")
    variants: tuple[VariantRecord, ...] = Field(description="the full model first")
    tasks: tuple[TaskRecord, ...] = Field(description="what was asked")
    rows: tuple[VariantRow, ...] = Field(description="by task and variant")
    curves: tuple[TaskCurve, ...] = Field(
        description="the first figure: of several starts a size the cheapest one, as in costs.json, all domains alike"
    )
    healed: tuple[HealedPoint, ...] = Field(description="the adapters' points, by task")
    maps: tuple[BlockMap, ...] = Field(description="the second figure; empty where each size has one start")
    prose: tuple[VariantProse, ...] = Field(description="with --text, of all variants")
    nf4_loss: tuple[ProseRow, ...] = Field(
        (), description="of a sweep in NF4, with --text: what NF4 alone costs the full model, as in comparison.json"
    )
    how: WalkRecord = Field(description="how the questions were read")
    settings: dict[str, Any] = Field(
        description="batch, context, precision, `weights` (`as stored` or `nf4`), device, chat template, shots, draw"
    )
    truncated: int = Field(description="requests whose start was cut to fit the context")
    notes: tuple[str, ...] = Field(description="what a reader must see: few questions, cut prompts, smaller batches")
    measured: Cost = Field(description="what the sweep took")
    provenance: dict[str, Any] = Field(
        description="the model with `content_sha256`, questions, seed, versions, command"
    )
