"""Planted clusters have exactly the labels that were planted, and by chance hardly any."""

import numpy as np
import pytest

from prune.instruments.concepts.alignment import (
    Clusters,
    LabelSet,
    Rule,
    align_clusters,
    chance,
    shuffle_words,
)
from prune.instruments.concepts.clustering import agreement, k_means, scaled, top_variance, ward
from prune.instruments.concepts.labels import (
    casing,
    grams,
    label_sets,
    number_units,
    prefixes,
    suffixes,
    synonym_labels,
    word_units,
)
from prune.instruments.concepts.settings import KINDS
from prune.instruments.concepts.tagging import Tag
from tests.support.concepts import sample_of

RULE = Rule(theta=0.9, min_types=3)


def one_set(carried, units, kind="syntactic", name="planted"):
    return LabelSet.of(name, kind, [[label] if label else [] for label in carried], units)


def labels_of(ids, carried, words):
    """The label of each cluster, by name."""
    one = one_set(carried, words)
    aligned = align_clusters(Clusters(np.array(ids)), [one], words, RULE)
    return [one.labels[number] if number >= 0 else None for number in aligned.label["planted"]], aligned


def test_a_share_of_theta_is_not_enough():
    words = np.arange(51) % 7
    ids = [0] * 10 + [1] * 11 + [2] * 20 + [3] * 10
    carried = ["z"] * 9 + [""] + ["z"] * 10 + [""] + ["z"] * 18 + [""] * 2 + ["z"] * 10
    assert labels_of(ids, carried, words)[0] == [None, "z", None, "z"]  # 9 of 10, 10 of 11, 18 of 20, 10 of 10


def test_one_word_lends_a_cluster_none_of_its_labels():
    words = np.array([0] * 10 + [0] * 10 + [1] + [0, 1] * 5 + [0, 1, 2] * 3)
    ids = [0] * 10 + [1] * 11 + [2] * 10 + [3] * 9
    found, aligned = labels_of(ids, ["z"] * 40, words)
    assert found == [None, None, None, "z"]
    assert aligned.one_word.tolist() == [True, True, False, False]
    assert aligned.few_words.tolist() == [False, False, True, False]
    assert aligned.unlabelled.tolist() == [False] * 4


def test_one_lemma_is_no_set_of_synonyms():
    words = number_units(["run", "runs", "running", "big", "large", "great"] * 2)
    lemmas = ["run", "run", "run", "big", "large", "great"] * 2
    carried = synonym_labels(lemmas, {"run": ["go"], "go": ["run"], "big": ["large", "great"], "large": ["big"]})
    assert set(carried[0]) == {"run", "go"}
    assert set(carried[4]) == {"large", "big"}
    one = LabelSet.of("synonyms", "semantic", carried, number_units(lemmas))
    ids = np.array([0, 0, 0, 1, 1, 1] * 2)
    aligned = align_clusters(Clusters(ids), [one], words, RULE)
    assert [one.labels[number] if number >= 0 else None for number in aligned.label["synonyms"]] == [None, "big"]


def test_labels_of_words():
    assert [casing(word) for word in ("the", "The", "I", "NASA", "iPhone", "3rd", "2017")] == [
        *(None, "capitalised", "capitalised", "capitals", "mixed case", "with digits", "with digits")
    ]
    assert casing("東京") is casing("مدينة") is None
    assert prefixes("unknown") == ["un"]
    assert prefixes("unit") == []  # no three letters are left
    assert suffixes("singing") == ["ing"]
    assert suffixes("stations") == ["ions", "s", "tions"]
    assert suffixes("king") == suffixes("2010s") == []
    assert grams("unlocking") == {"loc", "ock"}
    assert grams("to") == set()


def planted(seed=0):
    """Four groups of states far apart: words in -ing, capitalised ones, names for size, and three letters shared."""
    groups = [
        ["walking", "talking", "seeming", "fearing", "making"],
        ["Paris", "Rome", "Oslo", "Lima", "Bonn"],
        ["big", "large", "great"],
        ["strong", "astray", "ostrich"],
    ]
    draw = np.random.default_rng(seed)
    words, group, states = [], [], []
    for number, some in enumerate(groups):
        for word in some * 6:
            words.append(word)
            group.append(number)
            states.append(10 * np.eye(4, 16)[number] + draw.normal(size=16))
    order = draw.permutation(len(words))
    sample = sample_of([words[place] for place in order])
    return sample, np.array(group)[order], np.array(states, dtype=np.float32)[order]


def test_planted_clusters_have_the_planted_labels_and_no_others():
    sample, group, states = planted()
    words = word_units(sample)
    lemmas = [occurrence.word.text.lower() for occurrence in sample.occurrences]
    tags = [Tag(f"T{place}", f"D{place}", None, lemma) for place, lemma in enumerate(lemmas)]  # none is shared
    sets = label_sets(sample, KINDS, words, tags, {"big": ["large", "great"], "large": ["big"], "great": ["big"]})
    ids = k_means(states, 4, seed=0)
    assert agreement(ids, group.astype(np.int32)) == 1
    clusters = Clusters(ids)
    aligned = align_clusters(clusters, sets, words, RULE)
    found = {}
    for number in range(4):
        found[int(group[clusters.members(number)[0]])] = {
            one.name: one.labels[aligned.label[one.name][number]]
            for one in sets
            if aligned.label[one.name][number] >= 0
        }
    assert found[0] == {"suffix": "ing"}
    assert found[1] == {"casing": "capitalised"}
    assert found[2] == {"synonyms": "big"}
    assert found[3] == {"n-gram": "str"}
    shares = {kind: aligned.has(kind).mean() for kind in KINDS}
    assert shares["morphological"] == shares["semantic"] == 0.25
    assert shares["syntactic"] == 0
    assert not aligned.several.any()


def test_several_kinds_at_once_are_counted():
    words = np.arange(12) % 4
    first, second = one_set(["z"] * 12, words), one_set(["y"] * 6 + [""] * 6, words, "semantic", "other")
    aligned = align_clusters(Clusters(np.repeat([0, 1], 6)), [first, second], words, RULE)
    assert aligned.kinds.tolist() == [2, 1]
    assert aligned.several.tolist() == [True, False]


def test_chance_is_small_where_labels_were_planted_and_near_the_share_where_they_were_not():
    draw = np.random.default_rng(0)
    words = draw.integers(0, 200, size=4000).astype(np.int32)
    group = words % 40  # a cluster of five words
    tied = one_set([f"z{word % 4}" for word in words], words)
    aligned = align_clusters(Clusters(group), [tied], words, RULE)
    assert aligned.has("syntactic").all()
    assert chance(group, [tied], words, RULE, draw).has("syntactic").mean() < 0.1
    common = draw.random(200) < 0.9  # nine words of ten carry it, wherever they are
    loose = one_set(["z" if common[word] else "" for word in words], words)
    share = align_clusters(Clusters(group), [loose], words, RULE).has("syntactic").mean()
    chances = [chance(group, [loose], words, RULE, draw).has("syntactic").mean() for _ in range(20)]
    assert share > 0.3
    assert np.mean(chances) == pytest.approx(share, abs=0.25)


def test_the_shuffle_keeps_the_labels_of_a_word_together():
    draw = np.random.default_rng(0)
    words = np.repeat(np.arange(120), np.arange(120) % 6 + 5).astype(np.int32)
    origins = shuffle_words(words, draw)
    lender = {}
    for word, other in zip(words, words[origins], strict=True):
        assert lender.setdefault(int(word), int(other)) == other
    assert sorted(lender.values()) == list(range(120))  # each word lends once
    assert sum(word == other for word, other in lender.items()) < 20
    counts = np.bincount(words)
    assert max(abs(counts[word] - counts[other]) for word, other in lender.items()) <= 3


def test_the_word_by_chance_is_that_of_mixed_clusters():
    words = np.repeat(np.arange(10), 20).astype(np.int32)
    one = LabelSet.of("word", "lexical", [[str(word)] for word in words], words)
    assert align_clusters(Clusters(words), [one], words, RULE).has("lexical").all()
    by_chance = chance(words, [one], words, RULE, np.random.default_rng(0))
    assert not by_chance.has("lexical").any()
    assert not by_chance.unlabelled.any()  # clusters of one word are nobody's own concept


def test_ward_is_that_of_scikit_learn():
    from sklearn.cluster import AgglomerativeClustering

    states = np.random.default_rng(0).normal(size=(150, 12)).astype(np.float32) + 100
    theirs = AgglomerativeClustering(9).fit_predict(states)
    assert agreement(ward(states, 9), theirs) == 1
    assert len(set(ward(states, 9).tolist())) == 9


def test_scales_of_states():
    states = np.array([[3, 4], [0, 0], [0, -2]], dtype=np.float32)
    standard = scaled(states, "standard")
    assert standard.mean(0) == pytest.approx(0, abs=1e-6)
    assert standard.std(0) == pytest.approx(1)
    assert scaled(np.ones((3, 2), dtype=np.float32), "standard").tolist() == [[0, 0]] * 3
    assert top_variance(states) == pytest.approx(56 / 9 / (56 / 9 + 2))
    assert top_variance(np.ones((3, 2), dtype=np.float32)) == 0
    assert scaled(states, "unit") == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0, -1]]))
    assert scaled(states, "raw") is states


def test_clusters_of_equal_states_are_fewer_and_not_an_error():
    states = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert len(set(k_means(states, 4, seed=0).tolist())) == 3
