"""From clusters and labels to what concepts.json says: shares with chance and intervals, and words for examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prune.choosing.heads import Estimate
from prune.common.intervals import Interval, student_mean
from prune.instruments.concepts.alignment import Alignment, Clusters, Flags, Ids, LabelSet, Rule, align_clusters, chance
from prune.instruments.concepts.clustering import agreement
from prune.instruments.concepts.occurrences import Sample
from prune.instruments.concepts.result import Example, LayerConcepts, SampleFacts, Share, Trend, Ward
from prune.instruments.concepts.settings import ConceptsSettings, Kind

UNLABELLED, SEVERAL, FEW_WORDS = "unlabelled", "several", "few words"
CLAIMS = {"lexical": "falls", "semantic": "rises"}  # with depth, by arXiv 2205.07237
_WORDS = 8  # that tell a cluster


@dataclass(frozen=True)
class Labelled:
    """A sample with its labels; `words` as `labels.word_units` gives them."""

    sample: Sample
    words: Ids
    sets: list[LabelSet]

    @property
    def facts(self) -> SampleFacts:
        """What the sample holds."""
        return SampleFacts(
            words=self.sample.read,
            unaligned=self.sample.unaligned,
            types=self.sample.types,
            occurrences=len(self.sample.occurrences),
        )


@dataclass(frozen=True)
class Clustered:
    """One layer's clusters of one sample.

    Attributes:
        k_means: of each occurrence, (N,).
        ward: of the occurrences `rows`, (W,); both empty without Ward.
        top_variance: see `clustering.top_variance`.
    """

    k_means: Ids
    ward: Ids
    rows: Ids
    top_variance: float


@dataclass(frozen=True)
class LayerShares:
    """One layer's shares in one sample, each by its name: a kind, a set of labels, or what else is counted."""

    clusters: int
    shares: dict[str, float]
    chances: dict[str, float]
    ward: dict[str, float] | None
    agreement: float
    top_variance: float
    unlabelled: tuple[Example, ...]
    several: tuple[Example, ...]


def measure_layer(
    clustered: Clustered, labelled: Labelled, kinds: Sequence[Kind], settings: ConceptsSettings, number: int
) -> LayerShares:
    """Align one layer's clusters with all labels, and with shuffled ones.

    Args:
        number: of the sample, 0-based; examples are told of the first.
    """
    words, rule = labelled.words, Rule(settings.theta, settings.min_types)
    clusters = Clusters(clustered.k_means)
    aligned = align_clusters(clusters, labelled.sets, words, rule)
    shuffled = []
    for shuffle in range(settings.shuffles):
        draw = np.random.default_rng([settings.seed, number, shuffle])
        by_chance = chance(clustered.k_means, labelled.sets, words, rule, draw)
        shuffled.append(shares_of(by_chance, kinds))
    chances = {name: float(np.mean([one[name] for one in shuffled])) for name in shuffled[0]}
    ward, alike = None, float("nan")
    if len(clustered.ward):
        some = clustered.rows.astype(np.int64)
        sets = [one.rows(some) for one in labelled.sets]
        wards = align_clusters(Clusters(clustered.ward), sets, words[some], rule)
        ward, alike = shares_of(wards, kinds), agreement(clustered.ward, clustered.k_means[some])
    told = settings.examples if number == 0 else 0
    return LayerShares(
        clusters=len(clusters.sizes),
        shares=shares_of(aligned, kinds),
        chances=chances,
        ward=ward,
        agreement=alike,
        top_variance=clustered.top_variance,
        unlabelled=_examples(aligned, aligned.unlabelled, clusters, labelled, told),
        several=_examples(aligned, aligned.several, clusters, labelled, told),
    )


def shares_of(aligned: Alignment, kinds: Sequence[Kind]) -> dict[str, float]:
    """Shares of all clusters: with each kind of labels, with each set, and what else is counted."""
    flags: dict[str, Flags] = {kind: aligned.has(kind) for kind in kinds}
    flags |= {name: label >= 0 for name, label in aligned.label.items()}
    flags |= {UNLABELLED: aligned.unlabelled, SEVERAL: aligned.several, FEW_WORDS: aligned.few_words}
    return {name: float(flag.mean()) for name, flag in flags.items()}


def _examples(
    aligned: Alignment, wanted: Iterable[bool], clusters: Clusters, labelled: Labelled, count: int
) -> tuple[Example, ...]:
    """The clusters of most distinct words among those that are wanted."""
    numbers = np.flatnonzero(np.asarray(wanted)).tolist()
    if not count:
        return ()
    types = {number: len(set(labelled.words[clusters.members(number)].tolist())) for number in numbers}
    first = sorted(types, key=lambda number: (-types[number], number))[:count]
    found = []
    for number in first:
        members = clusters.members(number)
        spelt = Counter(labelled.sample.occurrences[member].word.text for member in members.tolist())
        labels = [
            f"{one.name}: {one.labels[aligned.label[one.name][number]]}"
            for one in labelled.sets
            if aligned.label[one.name][number] >= 0
        ]
        top = sorted(spelt, key=lambda word: (-spelt[word], word))[:_WORDS]
        found.append(Example(words=tuple(top), types=types[number], occurrences=len(members), labels=tuple(labels)))
    return tuple(found)


def layer_concepts(
    layer: int, samples: Sequence[LayerShares], kinds: Sequence[Kind], sets: Sequence[str]
) -> LayerConcepts:
    """What the samples say together of one layer.

    Args:
        sets: names of the sets of labels.
    """
    ward = None
    if samples[0].ward is not None:
        ward = Ward(
            agreement=Estimate.of(student_mean([one.agreement for one in samples])),
            shares=tuple(_bounded(student_mean([(one.ward or {})[kind] for one in samples])) for kind in kinds),
        )
    return LayerConcepts(
        layer=layer,
        clusters=tuple(one.clusters for one in samples),
        kinds=tuple(_share(kind, samples) for kind in kinds),
        labels=tuple(_share(name, samples) for name in sets),
        unlabelled=_share(UNLABELLED, samples),
        several=_share(SEVERAL, samples),
        few_words=_bounded(student_mean([one.shares[FEW_WORDS] for one in samples])),
        ward=ward,
        top_variance=float(np.mean([one.top_variance for one in samples])),
        unlabelled_examples=samples[0].unlabelled,
        several_examples=samples[0].several,
    )


def _share(name: str, samples: Sequence[LayerShares]) -> Share:
    shares, chances = [one.shares[name] for one in samples], [one.chances[name] for one in samples]
    return Share(
        name=name,
        share=_bounded(student_mean(shares)),
        chance=float(np.mean(chances)),
        beyond=Estimate.of(student_mean(np.subtract(shares, chances))),
        samples=tuple(shares),
        chances=tuple(chances),
    )


def trends(states: Sequence[LayerConcepts], layers: int) -> tuple[Trend, ...]:
    """How each share beyond chance runs over depth: a straight line through each sample's layers, by least squares.

    Args:
        layers: L.
    """
    if len(states) < 2:
        return ()
    depth = np.array([state.layer for state in states]) / layers
    found = []
    for rows in zip(*([*state.kinds, state.unlabelled, state.several] for state in states), strict=True):
        beyond = np.array([np.subtract(row.samples, row.chances) for row in rows])  # (layers measured, samples)
        slopes = np.polyfit(depth, beyond, 1)[0]
        found.append(_trend(rows[0].name, student_mean(slopes)))
    return tuple(found)


def _trend(name: str, slope: Interval) -> Trend:
    claim = CLAIMS.get(name)
    verdict = None
    if claim is not None:
        claimed = slope.negated if claim == "falls" else slope
        verdict = "seen" if claimed.low > 0 else "the reverse" if claimed.high < 0 else "cannot tell"
    return Trend.model_validate({"name": name, "slope": Estimate.of(slope), "claim": claim, "verdict": verdict})


def _bounded(share: Interval) -> Estimate:
    """A share, whose interval ends at 0 and 1."""
    return Estimate(estimate=share.estimate, low=max(0.0, share.low), high=min(1.0, share.high))
