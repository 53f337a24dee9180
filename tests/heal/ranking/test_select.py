"""Scores by domain, ranks, and the documents that are selected by them."""

import numpy as np
import pytest

from heal.ranking.document import DomainScores, MethodScores, RankedDocument, Ranking
from heal.ranking.findings.summary import domain_scores, joint, ranks, take
from heal.ranking.rows import PoolDocument
from heal.ranking.select import select_documents
from heal.ranking.settings import RankSettings, Selection, check_methods, parse_share
from prune.common.errors import UsageError

TEXTS = ["a", "b", "c", "d", "b"]
TOKENS = [10, 20, 30, 40, 20]
MEDICAL, MATH = (0.1, 0.5, 0.3, -0.2, 0.5), (30.0, -20.0, 10.0, 20.0, -20.0)


def documents():
    return [PoolDocument(text, "book", "law", "prose") for text in TEXTS]


def ranking():
    rows = tuple(
        RankedDocument(sha256=d.digest, words=d.text, source="book", topic="law", kind="prose", tokens=n, read=n)
        for d, n in zip(documents(), TOKENS, strict=True)
    )
    domains = tuple(
        DomainScores(domain=name, queries=2, scores=scores, stderr=(0.0,) * 5, ranks=tuple(map(int, ranks(scores))))
        for name, scores in (("medical", MEDICAL), ("math", MATH))
    )
    method = MethodScores(method="gradient", unit="cosine", domains=domains, bins=(), contrasts=None)
    return Ranking(
        model="m", pool_sha256="", documents=rows, questions=(), adapter=None, methods=(method,), seconds={},
        peak_memory={}, provenance={},
    )  # fmt: skip


def selected(select, domain=None):
    return [row["text"] for row in select_documents(ranking(), documents(), select, by="gradient", domain=domain)]


def test_a_domains_score_is_the_mean_over_its_queries():
    scores = np.array([[1.0, 3.0, 100.0], [2.0, 2.0, 200.0]])
    means, errors = domain_scores(scores, ["medical", "medical", "math"], "medical")
    assert means.tolist() == [2.0, 2.0]
    assert errors.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="1 queries of math"):
        domain_scores(scores, ["medical", "medical", "math"], "math")


def test_equals_are_ranked_as_they_stand():
    assert ranks([0.5, 2.0, 0.5, -1.0]).tolist() == [2, 1, 3, 4]


def test_domains_of_unlike_scales_count_alike():
    scores = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(joint([scores, -1000 * scores]), 0, atol=1e-12)
    assert joint([scores, np.zeros(3)]).argmax() == 2


@pytest.mark.parametrize(("budget", "taken"), [(1, [2]), (30, [2]), (34, [2]), (36, [2, 0]), (60, [2, 0, 1])])
def test_as_many_documents_are_taken_as_come_nearest_to_the_budget(budget, taken):
    assert take([10, 20, 30], [2, 0, 1], budget) == taken


def test_the_best_come_first_and_a_text_is_taken_once():
    assert selected("50%", "medical") == ["b", "c"]  # 50 of 100 tokens, those of b counted once
    assert selected("100%", "medical") == ["b", "c", "a", "d"]
    assert selected("30", "math") == ["a", "d"]  # 10 and 50 tokens are as near: of equally near ones the larger
    assert selected("10%") == ["a"]  # by both domains


def test_rows_can_be_healed_on_and_say_where_they_are_from():
    (row,) = select_documents(ranking(), documents(), "20", by="gradient", domain="medical")
    assert row == {"text": "b", "source": "book", "topic": "law", "kind": "prose", "score": 0.5}


def test_what_cannot_be_selected_is_refused():
    with pytest.raises(UsageError, match="101 is more than the 100 tokens of the pool"):
        selected("101")
    with pytest.raises(UsageError, match="no domain law; it has medical, math"):
        selected("10%", "law")
    with pytest.raises(UsageError, match="no scores by bm25; it has gradient"):
        select_documents(ranking(), documents(), "10%", by="bm25")
    with pytest.raises(ValueError, match="not those of the ranking"):
        select_documents(ranking(), documents()[1:], "10%", by="gradient")


def test_a_ranking_is_read_as_it_was_written(tmp_path):
    ranking().write(tmp_path / "rank.json")
    assert Ranking.read(tmp_path / "rank.json") == ranking()


@pytest.mark.parametrize("select", ["0%", "101%", "x%", "-5%", "much"])
def test_a_share_that_is_none_is_refused(select):
    with pytest.raises(UsageError):
        parse_share(select)


def test_settings_that_do_not_go_together_are_refused(tmp_path):
    some = RankSettings(text=("x",), domains=("medical",), data=tmp_path)
    picked = {"select": "10%", "select_out": tmp_path / "picked.jsonl"}
    for bad, words in (
        (lambda: RankSettings(sketch=3), "--sketch 3 is too few"),
        (lambda: RankSettings(bits=3), "--bits 3 is unknown"),
        (lambda: RankSettings(adapter=tmp_path, rank=4), "--rank does not go with --adapter"),
        (lambda: RankSettings().check(), "name the pool with --text"),
        (lambda: RankSettings(text=("x",)).check(), "name --domains"),
        (lambda: check_methods("gradient,magic"), "--methods magic is unknown"),
        (lambda: Selection(select="10%"), "go together"),
        (lambda: Selection(select="10%", select_out=tmp_path / "x.txt"), "the ending .jsonl"),
        (lambda: Selection(**picked, select_by="ek-fac").check(some), "is not scored"),
        (lambda: Selection(**picked, select_for="math").check(some), "not among --domains medical"),
    ):
        with pytest.raises(UsageError, match=words):
            bad()
