"""BM25 against values worked out by hand."""

import math

import numpy as np
import pytest

from heal.ranking.methods.bm25 import bm25_scores


def test_scores_are_the_formula_s():
    scores = bm25_scores(["A b b", "b c", "d"], ["b, c", "B b", "unknown"])
    of_b, of_c = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)  # b stands in two of three, c in one
    long = of_b * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2))  # twice in three words, where two are usual
    usual = 1 * 2.5 / (1 + 1.5)  # once in two words
    expected = [[long, 2 * long, 0], [(of_b + of_c) * usual, 2 * of_b * usual, 0], [0, 0, 0]]
    assert scores == pytest.approx(np.array(expected))


def test_no_query_gives_no_column_and_no_document_is_an_error():
    assert bm25_scores(["a", "b"], []).shape == (2, 0)
    with pytest.raises(ValueError, match="no document"):
        bm25_scores([], ["a"])
