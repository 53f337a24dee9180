"""The published claims on planted scores: each is seen where it was planted, and not where it was not."""

import itertools
import math

import numpy as np
import pytest

from heal.ranking.findings.claims import jackknife, judge
from heal.ranking.findings.contrasts import _at_random, answers, contrasts, half_share
from heal.ranking.procedures import CONTROLS, procedure_queries
from heal.ranking.rows import PoolDocument, Query
from prune.common.intervals import Interval

DOCUMENTS = 400


def world(*, each=6, shared=1.0, surface=0.0, spread=0.0, hits=0.0, seed=0):
    """Scores of a pool for queries of three procedures, their controls, and facts.

    Args:
        shared: weight of what the queries of one procedure have in common.
        surface: weight of what they have in common with their controls too.
        spread: how much fewer documents carry a fact than a reasoning.
        hits: share of the facts whose answer stands in the highest document.
    """
    draw = np.random.default_rng(seed)
    queries = procedure_queries(each, controls=each, seed=0)
    queries += [Query(f"fact {i}", "medical", f"fact {i}?", "", f"Thing {i}a", None) for i in range(3 * each)]
    kinds = ["reasoning" if q.domain == "procedures" else "control" if q.domain == CONTROLS else "factual"
             for q in queries]  # fmt: skip
    steps = {name: draw.normal(size=DOCUMENTS) for name in ("two-step arithmetic", "slope", "solve for x")}
    looks = {name: draw.normal(size=DOCUMENTS) for name in steps}
    scores = draw.normal(size=(DOCUMENTS, len(queries)))
    texts = [f"Text {i}, 12 and 264." for i in range(DOCUMENTS)]
    for number, (query, kind) in enumerate(zip(queries, kinds, strict=True)):
        if kind == "factual":
            scores[:, number] = np.sign(scores[:, number]) * np.abs(scores[:, number]) ** (1 + spread)
            fact = number - 6 * each
            place = int(scores[:, number].argmax() if fact < hits * 3 * each else draw.integers(DOCUMENTS))
            texts[place] += f" The THING-{fact}a is meant."
        else:
            scores[:, number] += (
                surface * looks[query.procedure] + shared * (kind == "reasoning") * steps[query.procedure]
            )
    return scores, [PoolDocument(text, "web") for text in texts], queries, kinds


def claims(found):
    return {claim.name: claim for claim in found.claims}


def test_transfer_is_seen_where_it_was_planted():
    found = contrasts(*world(shared=1.0), seed=0)
    means = {mean.name: mean for mean in found.correlations}
    assert means["one procedure"].value.estimate == pytest.approx(0.5, abs=0.05)  # 1 of 2 parts in common
    assert means["one procedure"].queries == 18
    for name in ("two procedures", "a procedure and its control", "two facts"):
        assert means[name].value.estimate == pytest.approx(0, abs=0.05)
        assert claims(found)[f"transfer: correlation of one procedure less that of {name}"].verdict == "seen"


def test_likeness_of_the_words_is_no_transfer():
    found = contrasts(*world(shared=0.0, surface=1.0), seed=0)
    named = claims(found)
    assert named["transfer: correlation of one procedure less that of two facts"].verdict == "seen"
    control = named["transfer: correlation of one procedure less that of a procedure and its control"]
    assert control.verdict == "not seen"
    assert control.value.low < 0 < control.value.high < 0.1


def test_too_few_queries_cannot_tell():
    found = contrasts(*world(each=2), seed=0)
    assert {claim.verdict for claim in found.claims} == {"cannot tell"}
    assert all(claim.value is None and "fewer than" in claim.note for claim in found.claims)
    assert [mean.value is None for mean in found.correlations] == [True, True, True, False]  # of six facts


def test_queries_with_one_prompt_are_no_pair():
    scores, documents, queries, kinds = world(shared=0.0)
    twice = [*range(18), *range(18), *range(18, len(queries))]
    found = contrasts(scores[:, twice], documents, [queries[i] for i in twice], [kinds[i] for i in twice], seed=0)
    assert found.correlations[0].value.estimate == pytest.approx(0, abs=0.05)


def test_generality_is_seen_where_facts_hang_on_fewer_documents():
    name = "generality: share of documents for reasoning less that for facts"
    assert claims(contrasts(*world(shared=0.0, spread=1.0), seed=0))[name].verdict == "seen"
    assert claims(contrasts(*world(shared=0.0, spread=0.0, each=20), seed=0))[name].verdict == "not seen"


def test_half_share():
    assert half_share(np.array([4.0, 3, 1, -9])) == 1 / 4  # 4 of 8
    assert half_share(np.array([3.0, 3, 2, -9])) == 2 / 4
    assert half_share(np.array([-1.0, 0])) == 0


def test_answers_are_seen_in_the_top_documents():
    found = contrasts(*world(hits=0.6, each=8), seed=0)
    factual = {mean.name: mean for mean in found.hits}["factual"]
    assert factual.queries == 24
    assert factual.value.estimate == pytest.approx(0.6, abs=0.1)
    assert {mean.name: mean for mean in found.base}["factual"].value.estimate == pytest.approx(found.top / DOCUMENTS)
    named = claims(found)
    assert named["answers: hits of facts less those at random"].verdict == "seen"
    against = named["answers: hits beyond random of facts less those of reasoning"]
    assert against.verdict == "cannot tell"  # numbers are no evidence
    assert "answers in words" in against.note


def test_answers_of_reasoning_in_words_are_held_against_those_of_facts():
    scores, documents, queries, kinds = world(hits=0.8, each=8)
    named = [Query(q.name, q.domain, q.prompt, q.answer, f"key {i}b", q.procedure) for i, q in enumerate(queries)]
    reasoning = [i for i, kind in enumerate(kinds) if kind == "reasoning"]
    queries = [named[i] if i in reasoning else query for i, query in enumerate(queries)]
    for number, i in enumerate(reasoning):
        documents[number] = PoolDocument(f"{documents[number].text} Key {i}b", "web")
    found = contrasts(scores, documents, queries, kinds, seed=0)
    assert claims(found)["answers: hits beyond random of facts less those of reasoning"].verdict == "seen"


def answered(texts, key, top=1):
    """How many of two facts with this key count, in a pool of these texts and others."""
    queries = [Query(f"q{i}", "medical", f"{i}?", "", key) for i in range(2)]
    documents = [PoolDocument(text, "web") for text in (*texts, *["nothing"] * 9)]
    hits, _, _ = answers(np.eye(len(documents))[:, :2], documents, queries, ["factual"] * 2, top=top, seed=0)
    return hits[1].queries


def test_what_is_evidence():
    assert answered(["The IRON man."], "iron man") == 2
    assert answered(["environment", "the man of iron"], "iron man") == 0  # it stands nowhere
    assert answered(["12 men"], "12") == 0
    assert answered(["iron"] * 9, "Iron") == 0  # half of all documents
    assert answered(["iron"] * 2, "Iron", top=10) == 0  # as good as certain in so many


def test_the_top_documents_are_a_share_of_the_pool():
    for count, top in ((5, 5), (400, 10), (3000, 30)):
        documents = [PoolDocument(f"{i}", "web") for i in range(count)]
        found = contrasts(
            np.eye(count)[:, :1], documents, [Query("q", "medical", "?", "", "iron")], ["factual"], seed=0
        )
        assert found.top == top


def test_the_base_rate_is_the_exact_chance():
    for documents, having, drawn in itertools.product((5, 9), (0, 1, 3, 5), (1, 4, 5)):
        expected = 1 - math.comb(documents - having, drawn) / math.comb(documents, drawn)
        assert _at_random(documents, having, drawn) == pytest.approx(expected)


def test_the_rule_of_the_verdict():
    assert judge("", Interval(0.2, 0.1, 0.3), margin=0.5).verdict == "seen"
    assert judge("", Interval(0.1, -0.1, 0.3), margin=0.5).verdict == "not seen"
    assert judge("", Interval(0.3, -0.1, 0.7), margin=0.5).verdict == "cannot tell"
    assert judge("", None, margin=0.5, note="why").verdict == "cannot tell"
    assert judge("", Interval(0.3, math.nan, math.nan), margin=0.5).verdict == "cannot tell"


def test_the_jackknife_of_a_mean_is_student_s_interval():
    from prune.common.intervals import student_mean

    values = np.random.default_rng(0).normal(size=7)
    (found,) = jackknife(lambda kept: np.array([values[kept].mean()]), [range(7)], 7)
    expected = student_mean(values)
    assert (found.estimate, found.low, found.high) == pytest.approx((expected.estimate, expected.low, expected.high))


@pytest.mark.slow
def test_intervals_of_pairs_hold_the_planted_correlation():
    held = 0
    for seed in range(100):
        scores, documents, queries, kinds = world(each=5, shared=1.0, seed=seed)
        strengths = np.random.default_rng(1000 + seed).gamma(4, 0.25, size=(1, len(queries)))
        noise = np.random.default_rng(2000 + seed).normal(size=scores.shape) * strengths  # some queries are noisier
        value = contrasts(scores + noise, documents, queries, kinds, seed=0).correlations[0].value
        truth = np.mean(1 / np.sqrt(2 + np.random.default_rng(1).gamma(4, 0.25, size=100_000) ** 2)) ** 2
        held += value.low <= truth <= value.high
    assert held >= 85


def test_results_are_frozen_and_json():
    found = contrasts(*world(each=3), seed=0)
    assert found.model_dump(mode="json")["claims"][0]["margin"] == 0.1
    with pytest.raises(ValueError, match="frozen"):
        found.top = 3
    with pytest.raises(ValueError, match="shape"):
        contrasts(np.zeros((2, 2)), [], [], [], seed=0)
