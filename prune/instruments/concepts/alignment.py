"""Which clusters have which labels, and which they would have by chance. Pure arithmetic.

Shapes: N occurrences, K clusters, Z labels of one set. A cluster has the label that more than theta of its occurrences
carry (arXiv 2205.07237: theta = 0.90).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from prune.instruments.concepts.settings import Kind

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
ONE_WORD = "word"  # the set whose labels are the words themselves
_ALIKE = 50  # words of like frequency, among which the shuffle moves labels


@dataclass(frozen=True)
class LabelSet:
    """Labels of one sort.

    Attributes:
        name: such as "suffix".
        kind: such as "morphological".
        labels: names of the Z labels.
        carried: 1 where an occurrence carries a label, (N, Z).
        units: what a cluster's occurrences must differ in to be more than one word, (N,): words, or their lemmas.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    carried: Any
    units: Ids

    @classmethod
    def of(cls, name: str, kind: Kind, carried: Sequence[Collection[str]], units: Ids) -> LabelSet:
        """From the labels of each occurrence, a label once in each list at most.

        A label that one unit alone carries is left out, as no cluster of several can have it; but for `ONE_WORD`.
        """
        of_units: dict[str, set[int]] = {}
        for labels, unit in zip(carried, units.tolist(), strict=True):
            for label in labels:
                of_units.setdefault(label, set()).add(unit)
        shared = (label for label, some in of_units.items() if len(some) > 1 or name == ONE_WORD)
        names = {label: column for column, label in enumerate(shared)}
        rows, columns = [], []
        for row, labels in enumerate(carried):
            for label in labels:
                if label in names:
                    rows.append(row)
                    columns.append(names[label])
        shape = (len(carried), len(names))
        matrix = csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
        return cls(name, kind, tuple(names), matrix, units)

    def rows(self, numbers: NDArray[np.int64]) -> LabelSet:
        """Of some of the occurrences, in the order of their numbers."""
        return LabelSet(self.name, self.kind, self.labels, self.carried[numbers], self.units[numbers])

    def handed(self, origins: NDArray[np.int64]) -> LabelSet:
        """The same occurrences, each with the labels of the one that `origins` names, (N,)."""
        return LabelSet(self.name, self.kind, self.labels, self.carried[origins], self.units)


@dataclass(frozen=True)
class Rule:
    """When a cluster has a label.

    Attributes:
        theta: more than this share of it carries the label.
        min_types: it has so many distinct words at least.
    """

    theta: float
    min_types: int


@dataclass(frozen=True)
class Alignment:
    """The labels of K clusters.

    Attributes:
        sizes: occurrences of each, (K,); empty clusters are left out.
        one_word: one word is more than theta of it, (K,).
        few_words: it has fewer distinct words than a label asks for, and is not of one word, (K,).
        label: name of a set -> the label of each cluster, (K,), -1 for none.
        kind_of: name of a set -> its kind.
    """

    sizes: NDArray[np.int64]
    one_word: Flags
    few_words: Flags
    label: Mapping[str, NDArray[np.int64]]
    kind_of: Mapping[str, Kind]

    def has(self, kind: Kind) -> Flags:
        """Clusters with a label of this kind, (K,)."""
        found = np.zeros(len(self.sizes), dtype=np.bool_)
        for name, label in self.label.items():
            if self.kind_of[name] == kind:
                found |= label >= 0
        return found

    @property
    def kinds(self) -> NDArray[np.int64]:
        """How many kinds each cluster has labels of, (K,)."""
        every = sorted(set(self.kind_of.values()))
        return np.sum([self.has(kind) for kind in every], axis=0)

    @property
    def unlabelled(self) -> Flags:
        """Clusters of enough words that have no label at all, (K,): the model's own concepts."""
        return ~self.few_words & ~self.one_word & (self.kinds == 0)

    @property
    def several(self) -> Flags:
        """Clusters with labels of two kinds or more, (K,)."""
        return self.kinds > 1


class Clusters:
    """K clusters of N occurrences, in a form that counts fast.

    Args:
        ids: the cluster of each occurrence, (N,).
    """

    def __init__(self, ids: Ids) -> None:
        self.numbers, places = np.unique(ids, return_inverse=True)
        self.sizes = np.bincount(places)
        shape = (len(self.numbers), len(ids))
        self._members = csr_matrix((np.ones(len(ids), dtype=np.int32), (places, np.arange(len(ids)))), shape=shape)

    def counts(self, carried: Any) -> NDArray[np.int64]:
        """How many occurrences of each cluster carry each label, (K, Z)."""
        return np.asarray((self._members @ carried).toarray(), dtype=np.int64)

    def members(self, cluster: int) -> NDArray[np.int32]:
        """Numbers of the occurrences in a cluster, rising."""
        return np.sort(self._members[cluster].indices)


def align_clusters(clusters: Clusters, sets: Sequence[LabelSet], words: Ids, rule: Rule) -> Alignment:
    """The labels that clusters have.

    A cluster of which one word is more than theta has that word as its label and no other. Else it can have a label
    if it has `rule.min_types` distinct words. Where a set goes by lemmas, the same holds of these. One word, or one
    lemma, would lend a cluster all its own labels.

    Args:
        words: the word of each occurrence, (N,), whatever its case.
    """
    one_word, few = _too_alike(clusters, words, rule)
    label: dict[str, NDArray[np.int64]] = {}
    for one in sets:
        if one.name == ONE_WORD:
            label[one.name] = _best(clusters, one, rule.theta, np.ones(len(clusters.sizes), dtype=np.bool_))
            continue
        alike = (one_word, few) if one.units is words else _too_alike(clusters, one.units, rule)
        label[one.name] = _best(clusters, one, rule.theta, ~(one_word | few | alike[0] | alike[1]))
    return Alignment(clusters.sizes, one_word, few & ~one_word, label, {one.name: one.kind for one in sets})


def _too_alike(clusters: Clusters, units: Ids, rule: Rule) -> tuple[Flags, Flags]:
    shape = (len(units), int(units.max()) + 1)
    counts = clusters.counts(csr_matrix((np.ones(len(units), dtype=np.int32), (np.arange(len(units)), units)), shape))
    return counts.max(1) / clusters.sizes > rule.theta, (counts > 0).sum(1) < rule.min_types


def _best(clusters: Clusters, one: LabelSet, theta: float, may: Flags) -> NDArray[np.int64]:
    if not one.labels:
        return np.full(len(clusters.sizes), -1, dtype=np.int64)
    counts = clusters.counts(one.carried)
    best = counts.argmax(1)
    share = counts[np.arange(len(best)), best] / clusters.sizes
    return np.where(may & (share > theta), best, -1)


def shuffle_words(words: Ids, draw: np.random.Generator) -> NDArray[np.int64]:
    """For each occurrence the one whose labels it is handed, (N,): labels move from word to word as a whole.

    Words are ranked by their frequency, and words of like frequency change places. So labels keep their frequencies
    and stay together by word, and only their tie to the states is lost. Where a word has more occurrences than the
    one that lends it labels, these come again.
    """
    counts = np.bincount(words)
    ranked = sorted(np.flatnonzero(counts).tolist(), key=lambda word: (counts[word], draw.random()))
    lender: dict[int, int] = {}
    for begin in range(0, len(ranked), _ALIKE):
        alike = ranked[begin : begin + _ALIKE]
        lender |= dict(zip(alike, (alike[place] for place in draw.permutation(len(alike))), strict=True))
    places = np.split(np.argsort(words, kind="stable"), np.cumsum(counts)[:-1])
    origins = np.empty(len(words), dtype=np.int64)
    for word, other in lender.items():
        origins[places[word]] = np.resize(draw.permutation(places[other]), len(places[word]))
    return origins


def chance(ids: Ids, sets: Sequence[LabelSet], words: Ids, rule: Rule, draw: np.random.Generator) -> Alignment:
    """The labels that the clusters would have by chance.

    Labels are shuffled over words, the clusters stay. How many clusters are of one word is told by clusters of the
    same sizes whose occurrences are drawn at random.
    """
    origins = shuffle_words(words, draw)
    handed = [one if one.name == ONE_WORD else one.handed(origins) for one in sets]
    aligned = align_clusters(Clusters(ids), handed, words, rule)
    mixed = Clusters(draw.permutation(ids))
    alone = [one for one in sets if one.name == ONE_WORD]
    by_chance = align_clusters(mixed, alone, words, rule)
    return Alignment(
        aligned.sizes, aligned.one_word, aligned.few_words, {**aligned.label, **by_chance.label}, aligned.kind_of
    )
