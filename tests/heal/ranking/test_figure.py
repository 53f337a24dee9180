"""The drawing of a ranking: every bin, method and domain stands in it, and nothing leaves its column."""

from xml.etree import ElementTree

import numpy as np
import pytest

from heal.ranking.document import DomainScores, MethodScores, RankedDocument, Ranking
from heal.ranking.figure import draw_ranking
from heal.ranking.findings.bins import bin_means
from heal.ranking.rows import PoolDocument, Query

SVG = "{http://www.w3.org/2000/svg}"


def ranking(sizes, methods=("gradient", "bm25"), domains=("medical", "math")):
    draw = np.random.default_rng(0)
    documents = [PoolDocument(f"{name} {i}", name, "", "lead") for name, size in sizes.items() for i in range(size)]
    queries = [Query(f"{domain} {i}", domain, "?", "!") for domain in (*domains, "controls") for i in range(4)]
    found = []
    for scale, method in enumerate(methods, start=1):
        scores = 10.0**scale * draw.normal(size=(len(documents), len(queries)))
        rows = tuple(
            DomainScores(
                domain=domain,
                queries=4,
                scores=tuple(map(float, scores[:, 4 * i : 4 * i + 4].mean(1))),
                stderr=(1.0,) * len(documents),
                ranks=tuple(range(1, len(documents) + 1)),
            )
            for i, domain in enumerate(domains)
        )
        bins = bin_means(scores, documents, queries, seed=0)
        found.append(MethodScores(method=method, unit=f"unit of {method}", domains=rows, bins=bins, contrasts=None))
    return Ranking(
        model="pruned <model>",
        pool_sha256="",
        documents=tuple(
            RankedDocument(sha256=one.digest, words="", source=one.source, topic="", kind="lead", tokens=1, read=1)
            for one in documents
        ),
        questions=(),
        adapter=None,
        methods=tuple(found),
        seconds={},
        peak_memory={},
        provenance={},
    )


def test_every_bin_method_and_domain_is_drawn():
    root = ElementTree.fromstring(draw_ranking(ranking({"web": 6, "gsm8k": 1, "wiki": 4})))
    texts = [each.text for each in root.iter(f"{SVG}text")]
    for words in (
        "web / lead (6)",
        "gsm8k / lead (1)",
        "wiki / lead (4)",
        "gradient",
        "unit of bm25",
        "medical",
        "math",
    ):
        assert words in texts
    assert "controls" not in texts
    marks = [each for each in root.iter() if "mark" in each.get("class", "")]
    assert len(marks) == 2 + 3 * 2 * 2  # the legend's, and a mark for each bin, method and domain
    bars = [each for each in root.iter(f"{SVG}line") if "bar" in each.get("class", "")]
    assert len(bars) == 2 * 2 * 2  # of one document there is no interval


def test_bins_stand_by_their_score_for_the_first_domain():
    made = ranking({"one": 5, "two": 5, "three": 5, "four": 5})
    root = ElementTree.fromstring(draw_ranking(made))
    names = [each.text for each in root.iter(f"{SVG}text") if each.text.endswith("(5)")]
    expected = sorted(made.methods[0].bins, key=lambda one: -one.domains[0].score)
    assert names == [f"{one.source} / lead (5)" for one in expected]


def test_what_a_small_bin_does_not_know_stays_in_its_column():
    root = ElementTree.fromstring(draw_ranking(ranking({"web": 40, "few": 4}, methods=("gradient",))))
    width = float(root.get("width"))
    for bar in (each for each in root.iter(f"{SVG}line") if "bar" in each.get("class", "")):
        assert 264 <= float(bar.get("x1")) <= float(bar.get("x2")) <= width


@pytest.mark.parametrize("count", [3, 50])
def test_small_bins_are_left_out_of_many(count):
    text = draw_ranking(ranking({f"bin{i}": 4 + (i < 20) for i in range(count)}, methods=("gradient",)))
    assert ("10 smaller bins left out" in text) == (count == 50)
