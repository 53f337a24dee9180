"""concepts.json, the result of `prune concepts`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from prune.choosing.heads import Estimate
from prune.common.files.artefact import Artefact, Part


class Share(Part):
    """A share of a layer's clusters, beside what it would be by chance."""

    name: str = Field(
        description="what the clusters have: a kind of labels, a set of labels, no label, or several kinds"
    )
    share: Estimate = Field(description="share of all clusters; mean over the samples")
    chance: float = Field(description="the same with labels shuffled over words; mean over samples and shuffles")
    beyond: Estimate = Field(description="share less chance")
    samples: tuple[float, ...] = Field(description="the share in each sample")
    chances: tuple[float, ...] = Field(description="the chance in each sample; mean over its shuffles")


class Example(Part):
    """A cluster in words."""

    words: tuple[str, ...] = Field(description="its words that occur most, the first one most; as written")
    types: int = Field(description="its distinct words, whatever their case")
    occurrences: int = Field(description="its occurrences")
    labels: tuple[str, ...] = Field(description="its labels, such as `suffix: ing`")


class Ward(Part):
    """Ward's clusters of some of the occurrences, beside those of K-means."""

    agreement: Estimate = Field(description="adjusted Rand index of both on these occurrences: 1 the same, 0 chance")
    shares: tuple[Estimate, ...] = Field(description="share of Ward's clusters with each kind of labels, as in `kinds`")


class LayerConcepts(Part):
    """The clusters of one layer's states."""

    layer: int = Field(description="l of the states x[l]; L for what leaves the last layer")
    clusters: tuple[int, ...] = Field(description="clusters that are not empty, of each sample; shares are of these")
    kinds: tuple[Share, ...] = Field(description="clusters with a label of each kind")
    labels: tuple[Share, ...] = Field(description="clusters with a label of each set")
    unlabelled: Share = Field(description="clusters of enough words without any label: the model's own concepts")
    several: Share = Field(description="clusters with labels of two kinds or more")
    few_words: Estimate = Field(description="share of clusters of too few words to have a label, and not of one word")
    ward: Ward | None = Field(description="Ward's clusters; null with --ward 0")
    top_variance: float = Field(
        description="share of the states' variance in the one dimension that has most; mean over the samples"
    )
    unlabelled_examples: tuple[Example, ...] = Field(description="some without a label, of the first sample")
    several_examples: tuple[Example, ...] = Field(description="some with several kinds, of the first sample")


class Trend(Part):
    """How a share runs over depth."""

    name: str = Field(description="a kind of labels, `unlabelled` or `several`")
    slope: Estimate = Field(
        description="share beyond chance at x[L] less that at x[0], on the straight line through the layers measured"
    )
    claim: Literal["falls", "rises"] | None = Field(
        description="what arXiv 2205.07237 says of it: lexical falls, semantic rises; null where nothing is claimed"
    )
    verdict: Literal["seen", "the reverse", "cannot tell"] | None = Field(
        description="whether the interval of the slope lies on the claimed side of 0"
    )


class SampleFacts(Part):
    """What one sample holds."""

    words: int = Field(description="words that were read, marks left out")
    unaligned: int = Field(description="of these, words that share a token with another, and are left out")
    types: int = Field(description="distinct words, as written, that occur often enough")
    occurrences: int = Field(description="occurrences of these that are kept")


class Change(Part):
    """What became of one share."""

    name: str = Field(description="a kind of labels, `unlabelled` or `several`")
    before: float = Field(description="share of clusters in the other model; mean over the samples")
    after: float = Field(description="share here")
    change: Estimate = Field(description="after less before, paired by sample")


class LayerChange(Part):
    """The changes of one layer's states."""

    layer: int = Field(description="l of the states here")
    other_layer: int = Field(description="l of the same states in the other model")
    changes: tuple[Change, ...] = Field(description="of each share")


class AgainstConcepts(Part):
    """The concepts beside those of another model, from the same words."""

    model: str = Field(description="label of the other model")
    layers: tuple[LayerChange, ...] = Field(description="states that were measured in both")
    overall: tuple[Change, ...] = Field(description="the mean over these")


class Concepts(Artefact):
    """The groups that word states fall into, layer by layer, and the known labels that they line up with."""

    AGAIN: ClassVar[str] = "measure again with `prune concepts`"

    format: Literal["regrowth.concepts/1"] = "regrowth.concepts/1"
    model: str = Field(description="label of the model")
    layers: int = Field(description="L, its number of layers", ge=1)
    kinds: tuple[Literal["lexical", "morphological", "syntactic", "semantic"], ...] = Field(
        description="kinds of labels that were looked at"
    )
    missing: tuple[str, ...] = Field(description="packages that were not installed, so that their kinds are absent")
    samples: tuple[SampleFacts, ...] = Field(description="each sample")
    states: tuple[LayerConcepts, ...] = Field(description="each layer's states, the lowest first")
    trends: tuple[Trend, ...] = Field(description="how the shares run over depth; empty for a single layer")
    against: AgainstConcepts | None = Field(description="comparison with another model; null without --against")
    provenance: dict[str, Any] = Field(
        description="model, text, settings, `words` (hash of the occurrences), versions and command"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Concepts:
        for state in self.states:
            if not 0 <= state.layer <= self.layers:
                raise ValueError(f"states of layer {state.layer} in a model of {self.layers} layers")
            if tuple(share.name for share in state.kinds) != self.kinds:
                raise ValueError(f"layer {state.layer} has other kinds than kinds says")
            for share in (*state.kinds, *state.labels, state.unlabelled, state.several):
                if len(share.samples) != len(self.samples):
                    raise ValueError(f"layer {state.layer} has another number of samples than samples says")
        return self

    def at(self, layer: int) -> LayerConcepts | None:
        """The clusters of x[layer], if it was measured."""
        return next((state for state in self.states if state.layer == layer), None)
