"""heads.json, the result of `prune heads`, and what of it goes with dropped layers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from prune.choosing.protecting import share_of
from prune.common.files.artefact import Artefact, OptionalFloat, Part
from prune.common.intervals import Interval

RETRIEVAL = 0.1  # a retrieval head has a copy score above this (arXiv 2404.15574)
Head = tuple[int, int]  # layer and head, both 0-based
Rows = tuple[tuple[float, ...], ...]  # layer by layer, a number for each head


class Estimate(Part):
    """A mean with its 95 % interval."""

    estimate: float = Field(description="the mean")
    low: float = Field(description="lower end of its 95 % interval")
    high: float = Field(description="upper end")

    @classmethod
    def of(cls, interval: Interval) -> Estimate:
        return cls(estimate=interval.estimate, low=interval.low, high=interval.high)


class TrialRow(Part):
    """One needle at one place of a text, and what the model answered."""

    needle: int = Field(description="number of the needle, 0-based")
    length: int = Field(description="most tokens of the prompt")
    depth: float = Field(description="place of the needle: 0 at the beginning of the text, 1 at its end")
    tokens: int = Field(description="tokens of the prompt")
    recall: float = Field(description="ROUGE-1 recall of the needle's answer; above 0.5 the trial is answered")
    written: str = Field(description="what the model wrote")


class Stability(Part):
    """How well two halves of the trials agree: those of needles of even number, and those of odd number."""

    copy_score: OptionalFloat = Field(description="Pearson correlation of the copy scores, over all heads")
    write_score: OptionalFloat = Field(description="Pearson correlation of the write scores")
    copy_overlap: float = Field(description="share of the top heads by copy score of one half that the other has too")
    write_overlap: float = Field(description="the same by write score")
    heads: int = Field(description="how many top heads these shares are of")


class Effect(Part):
    """One measure with and without heads."""

    measure: str = Field(description="what was measured; bits are -log2 p(answer)")
    questions: int = Field(description="trials or questions")
    clusters: int = Field(description="needles or questions that they belong to; the intervals draw these anew")
    full: float = Field(description="mean of the full model")
    without_top: float = Field(description="mean without the top heads")
    without_random: tuple[float, ...] = Field(description="means without random heads of the same layers, each draw")
    fall: Estimate = Field(description="full less without the top heads")
    random_fall: Estimate = Field(description="full less without random heads")
    beyond_random: Estimate = Field(description="without random heads less without the top heads")
    verdict: Literal["seen", "not seen", "cannot tell"] | None = Field(
        description="whether what is claimed of the measure is seen: needles fall by more than with random heads, "
        "controls do not fall by a tenth; null where nothing is claimed"
    )


class Ablation(Part):
    """What taking out the first heads does."""

    heads: tuple[Head, ...] = Field(description="[layer, head] of each, the first one first")
    by: Literal["write", "copy"] = Field(description="the score by which they are first")
    random: tuple[tuple[Head, ...], ...] = Field(description="[layer, head] of each draw of random heads")
    effects: tuple[Effect, ...] = Field(description="what it does to each measure")


class Against(Part):
    """The heads beside those of another model, from which layers were dropped."""

    model: str = Field(description="label of the other model")
    layer_of: tuple[int, ...] = Field(description="for each layer of this model, its number in the other")
    removed_copy: float = Field(description="share of the other model's summed copy score that stood in dropped layers")
    removed_write: float = Field(description="the same of its positive write scores")
    copy_correlation: OptionalFloat = Field(description="Pearson correlation of copy scores over the heads of both")
    write_correlation: OptionalFloat = Field(description="Pearson correlation of write scores")
    retrieval_heads: int = Field(description="retrieval heads of the other model (copy score above 0.1)")
    kept: int = Field(description="of these, how many stand in layers that this model has")
    still: int = Field(description="of the kept, how many are retrieval heads here")
    new: int = Field(description="retrieval heads here that are none in the other model")


@dataclass(frozen=True)
class RemovedHeads:
    """What goes with dropped layers.

    Attributes:
        copy_score: its share of the summed copy score of all heads.
        write_score: its share of the sum of all write scores above 0.
        retrieval_heads: how many of them.
    """

    copy_score: float
    write_score: float
    retrieval_heads: int


class Heads(Artefact):
    """Which heads bring back what stands in the context."""

    AGAIN: ClassVar[str] = "measure again with `prune heads`"

    format: Literal["regrowth.heads/1"] = "regrowth.heads/1"
    model: str = Field(description="label of the model")
    layers: int = Field(description="number of layers", ge=1)
    heads: tuple[int, ...] = Field(description="heads of each layer; 0 for a layer without attention")
    answered: int = Field(description="trials that the model has answered; scores are means over these")
    trials: tuple[TrialRow, ...] = Field(description="every trial")
    left_out: tuple[int, ...] = Field(description="needles that the model answers without any text, and so not used")
    copy_score: Rows = Field(description="copy score of each head (2404.15574), 0 to 1, layer by layer")
    write_score: Rows = Field(description="write score of each head (2607.01002), in logits, layer by layer")
    active: Rows = Field(description="share of the answered trials in which a head copies over a tenth of the needle")
    retrieval_share: float = Field(description="share of all heads with a copy score above 0.1")
    steady: tuple[Head, ...] = Field(
        description="retrieval heads that are active in nine of ten answered trials or more"
    )
    sometimes: tuple[Head, ...] = Field(description="retrieval heads that are active in fewer")
    stability: Stability | None = Field(description="agreement of two halves of the trials; null if one is empty")
    agreement: OptionalFloat = Field(description="Spearman correlation of copy and write scores over all heads")
    ablations: tuple[Ablation, ...] = Field(description="what taking heads out does; empty without an ablation")
    against: Against | None = Field(description="comparison with another model's heads; null without --against")
    provenance: dict[str, Any] = Field(description="model, text, settings, versions and command")

    @model_validator(mode="after")
    def _consistent(self) -> Heads:
        if len(self.heads) != self.layers:
            raise ValueError("heads has another number of layers than layers says")
        for name in ("copy_score", "write_score", "active"):
            if tuple(map(len, getattr(self, name))) != self.heads:
                raise ValueError(f"{name} has another number of heads than heads says")
            if not all(math.isfinite(score) for row in getattr(self, name) for score in row):
                raise ValueError(f"{name} has a score that is no number")
        return self

    @property
    def retrieval_heads(self) -> tuple[Head, ...]:
        """Heads with a copy score above 0.1."""
        return tuple(head for head in self.ranked("copy") if self.copy_score[head[0]][head[1]] > RETRIEVAL)

    def copy_by_layer(self) -> tuple[float, ...]:
        """Copy scores of each layer's heads, summed."""
        return tuple(map(sum, self.copy_score))

    def removed_with(self, dropped: Iterable[int]) -> RemovedHeads:
        """What goes with these layers."""
        dropped = set(dropped)
        write_by_layer = tuple(sum(max(0.0, score) for score in row) for row in self.write_score)
        return RemovedHeads(
            copy_score=share_of(self.copy_by_layer(), dropped),
            write_score=share_of(write_by_layer, dropped),
            retrieval_heads=sum(layer in dropped for layer, _ in self.retrieval_heads),
        )

    def ranked(self, by: str = "write") -> list[Head]:
        """All heads as (layer, head), the highest score first."""
        rows = self.write_score if by == "write" else self.copy_score
        each = [(layer, head) for layer, row in enumerate(rows) for head in range(len(row))]
        return sorted(each, key=lambda head: -rows[head[0]][head[1]])
