"""Means of bins: planted bins come back with intervals that hold them."""

import numpy as np
import pytest

from heal.ranking.findings.bins import bin_means, by_domain
from heal.ranking.rows import PoolDocument, Query

QUERIES = [Query(f"{domain}-{i}", domain, "?", "!") for domain in ("medical", "math") for i in range(3)]


def documents(count, source="web", topic="", kind=""):
    return [PoolDocument(f"{source} {topic} {kind} {i}", source, topic, kind) for i in range(count)]


def test_a_bin_s_mean_is_over_its_documents_and_the_domain_s_queries():
    pool = [*documents(2, "gsm8k", kind="solution"), *documents(2, "wiki", "stars"), *documents(1, "gsm8k")]
    scores = np.arange(30.0).reshape(5, 6)
    first, second, third = bin_means(scores, pool, QUERIES, seed=0)
    assert (first.source, first.topic, first.kind, first.documents) == ("gsm8k", "", "solution", 2)
    assert (second.source, second.topic) == ("wiki", "stars")
    assert [mean.domain for mean in first.domains] == ["medical", "math"]
    assert first.domains[0].score == scores[:2, :3].mean()
    assert first.domains[1].score == scores[:2, 3:].mean()
    assert third.documents == 1


def test_a_bin_of_few_documents_has_no_interval():
    scores = np.random.default_rng(0).normal(size=(9, 6))
    pool = [*documents(4, "four"), *documents(3, "three"), *documents(1, "twins"), *documents(1, "twins")]
    four, three, twins = bin_means(scores, pool, QUERIES, seed=0)
    assert four.domains[0].interval.low < four.domains[0].score < four.domains[0].interval.high
    assert three.domains[0].interval is None
    assert twins.domains[0].interval is None


def test_intervals_hold_the_planted_mean():
    draw = np.random.default_rng(0)
    held = 0
    for number in range(100):
        scores = 0.3 + draw.standard_t(5, size=(20, 6))
        (found,) = bin_means(scores, documents(20), QUERIES, seed=number)
        interval = found.domains[0].interval
        held += interval.low <= 0.3 <= interval.high
    assert held >= 88


def test_copies_of_one_text_are_one_document():
    draw = np.random.default_rng(1)
    scores = draw.normal(size=(12, 6))
    pool = documents(12)
    (alone,) = bin_means(scores, pool, QUERIES, seed=0)
    (copied,) = bin_means(np.repeat(scores, 9, axis=0), [d for d in pool for _ in range(9)], QUERIES, seed=0)
    widths = [mean.domains[0].interval.high - mean.domains[0].interval.low for mean in (alone, copied)]
    assert widths[1] == pytest.approx(widths[0])


def test_a_large_bin_has_the_interval_of_its_documents(monkeypatch):
    scores = np.random.default_rng(2).normal(size=(600, 6))
    (exact,) = bin_means(scores, documents(600), QUERIES, seed=0)
    monkeypatch.setattr("heal.ranking.findings.bins.MOST_CLUSTERS", 200)
    (thrown,) = bin_means(scores, documents(600), QUERIES, seed=0)
    widths = [mean.domains[0].interval.high - mean.domains[0].interval.low for mean in (exact, thrown)]
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


def test_scores_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="shape"):
        by_domain(np.zeros((2, 6)), documents(3), QUERIES)
    with pytest.raises(ValueError, match="finite"):
        by_domain(np.full((3, 6), np.nan), documents(3), QUERIES)
