"""depth.json: what each question's measures lose without each block of layers; a change is without the block - full."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from eval.billing.rows.thinking import ThinkingRow
from eval.billing.sweep import Cost, OfTask, WalkRecord
from eval.depth.contrasting.asymmetry import Asymmetry
from eval.depth.contrasting.contrasts import Interaction
from eval.depth.similarity.fast_slow import FastSlowSimilarity
from prune.common.files.artefact import Artefact, OptionalFloat, Part
from prune.common.intervals import Interval

_MEASURE = (
    "`fast`: NLL of the right answer. `using`: the same after the question's rationale. `writing`: the rationale "
    "itself. `control`: another question's rationale beside this question. `informed`: a rationale beside another "
    "question less beside its own"
)


class DepthVariant(Part):
    """The full model, or the model without one block."""

    label: str = Field(description="`full`, or `4@12` for four layers from layer 12 on")
    n: int = Field(description="layers of the block")
    start: int | None = Field(description="the first of them; null for the full model")
    depth: float | None = Field(description="the block's middle over L, in (0, 1); null for the full model")


class DepthTaskRecord(OfTask):
    """What was asked of a domain under a protocol."""

    n: int = Field(description="questions")
    clusters: int = Field(description="of these, how many share no passage")
    chance: float = Field(description="mean accuracy of blind guesses")
    sets: dict[str, int] = Field(description="set -> questions")
    rationales: int = Field(description="questions with a rationale that is used")
    controls: int = Field(description="questions with another one's rationale beside them")
    rationale_tokens: float | None = Field(description="mean length of the rationales used; null for none")
    rationales_there: int = Field(description="rationales among all questions that could be drawn")
    rationales_too_long: int = Field(description="of these, how many are longer than `max_rationale_tokens`")


class MeasureRow(OfTask):
    """A measure of a variant on a task: means over questions, with 95 % intervals, clustered by passage."""

    variant: str = Field(description="label of the variant")
    measure: str = Field(description=_MEASURE)
    unit: str = Field(description="bits per answer, or bits per UTF-8 byte of the rationale")
    n: int = Field(description="questions that the measure is of; 0 where it is null")
    value: Interval | None = Field(description="null where no two questions have the rationale that it needs")
    change: Interval | None = Field(description="against the full model; null for it too")


class Third(OfTask):
    """What the blocks of a third of the layers cost: of each question the median block's cost, and the mean of these.

    The median leaves out the first layers, without which most models are destroyed.
    """

    size: int = Field(description="layers of a block")
    third: str = Field(description="shallow, middle or deep: where the middle of a block lies")
    blocks: int = Field(description="how many blocks")
    measure: str = Field(description="as in `rows`")
    cost: Interval = Field(description="what is lost, in the measure's unit: a fall of `informed`, else a rise")


class WrittenVariant(Part):
    """A variant that wrote its answers, and why it was chosen."""

    variant: str = Field(description="its label")
    why: Literal["full model", "contrast", "deepest"] = Field(
        description="`contrast`: of the blocks in its half of the layers it tells the domains apart most; `deepest`: "
        "the deepest block of its size"
    )
    contrast: float | None = Field(
        description="largest difference between two domains of the block's cost, as a share of each domain's median "
        "block; null where it was not chosen for it"
    )


class Disagreement(OfTask):
    """What likelihood and what written answers say of the same block on the same questions."""

    variant: str = Field(description="label of the block")
    nll: Interval = Field(description="change of `fast`, bits per answer")
    accuracy: Interval = Field(description="change of accuracy by written answers")
    mode: str = Field(description="fast or slow: the written answers")
    verdict: Literal["both lose", "likelihood alone", "accuracy alone", "opposite", "neither"] = Field(
        description="which of the two is a loss for certain; `opposite`: one is a loss and the other a gain"
    )


class RankAgreement(OfTask):
    """Whether likelihood orders the written blocks as accuracy does."""

    mode: str = Field(description="fast or slow: the written answers")
    blocks: int = Field(description="how many are ordered")
    spearman: OptionalFloat = Field(
        description="correlation of ranks, rise of NLL against fall of accuracy; null for fewer than 3 blocks, and "
        "where all of one side are equal"
    )


class DomainInteraction(Part):
    """Do deep blocks cost the first domain more than the second, and shallow blocks the reverse?"""

    size: int = Field(description="layers of a block")
    measure: str = Field(description="as in `rows`")
    protocol: str = Field(
        description="choice or generation; both: over all questions, as the measure is of rationales alone, or as the "
        "domains share no protocol"
    )
    domains: tuple[str, str] = Field(description="the first is the one to which thinking adds more")
    found: Interaction = Field(description="the test")


class MeasureInteraction(OfTask):
    """Do deep blocks cost the chain more than recall, and shallow blocks the reverse, on the same questions?"""

    size: int = Field(description="layers of a block")
    measures: tuple[str, str] = Field(description="writing or using, and fast")
    found: Interaction = Field(description="the test; costs of unlike units are compared by the relative ones alone")


class DepthRecord(Artefact):
    """depth.json."""

    AGAIN: ClassVar[str] = "measure again with `evaluate depth`"

    format: Literal["regrowth.depth/1"] = "regrowth.depth/1"
    layers: int = Field(description="L")
    sizes: tuple[int, ...] = Field(description="layers of the blocks")
    starts: str = Field(description="every, or how many of each size")
    measures: tuple[str, ...] = Field(description="what was measured")
    variants: tuple[DepthVariant, ...] = Field(description="the full model first")
    tasks: tuple[DepthTaskRecord, ...] = Field(description="what was asked")
    rows: tuple[MeasureRow, ...] = Field(description="by task, measure and variant")
    thirds: tuple[Third, ...] = Field(description="by size, task and measure")
    written: tuple[WrittenVariant, ...] = Field(description="with --generate: who wrote answers, the full model first")
    thinking: tuple[ThinkingRow, ...] = Field(
        description="with --generate: as in comparison.json, `model` being a variant's label"
    )
    disagreements: tuple[Disagreement, ...] = Field(description="with --generate: by task, mode and block")
    agreement: tuple[RankAgreement, ...] = Field(description="with --generate: by task and mode")
    interactions: tuple[DomainInteraction, ...] = Field(description="by size, measure and pair of domains")
    measure_interactions: tuple[MeasureInteraction, ...] = Field(description="by size and task")
    events: tuple[Asymmetry, ...] = Field(
        description="with --generate: what goes first as the deepest block grows; `domain` names a task"
    )
    similarity: FastSlowSimilarity | None = Field(
        description="likeness of states under fast and slow prompts; null with --no-similarity"
    )
    how: WalkRecord = Field(description="how the questions were read")
    settings: dict[str, Any] = Field(
        description="what was set: draw, precision, `weights`, context, chat template, bounds"
    )
    truncated: int = Field(description="requests whose start was cut to fit the context")
    warnings: tuple[str, ...] = Field(description="what a reader must see first: no rationales, few questions")
    notes: tuple[str, ...] = Field(description="what happened on the way, such as smaller batches")
    measured: Cost = Field(description="what it took")
    provenance: dict[str, Any] = Field(
        description="the model with `content_sha256`, questions, seed, versions, command"
    )
