"""The arithmetic of head scores, by hand."""

import math

import numpy as np
import pytest

from prune.instruments import scores
from prune.instruments.controls import FACTS, SUMS
from prune.instruments.needles import NEEDLES
from prune.instruments.scores import CopiedTokens, WrittenLogits


def test_recall_counts_each_word_as_often_as_it_stands():
    assert scores.recall("a live goose and a barrel", "A goose, a barrel!") == 4 / 6
    assert scores.recall("a live goose and a barrel", "a goose") == 2 / 6
    assert scores.recall("Grün & blau", "grün") == 0.5
    assert scores.recall("old maps", "") == 0


def test_a_copy_score_is_of_a_set():
    copied = CopiedTokens([[7, 8, 7, 9], [3]], heads=2)
    copied.add([7, 4], np.array([[True, False], [False, False]]))
    copied.add([7, 3], np.array([[True, True], [False, True]]))  # a token that is copied again adds nothing
    copied.add([9, 3], np.array([[False, True], [False, False]]))
    np.testing.assert_allclose(copied.scores(), [[1 / 3, 2 / 3], [0, 1]])


def test_a_write_score_takes_off_what_comes_from_elsewhere():
    written = WrittenLogits(2, 2)
    share = np.full((2, 2), 0.5)
    written.add(np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 2.0], [0.0, 0.0]]), share, np.array([True, True]))
    written.add(np.array([[1.0, 0.0], [9.0, 9.0]]), np.zeros((2, 2)), share, np.array([True, False]))
    np.testing.assert_allclose(written.scores(), [[1.5, -0.5], [1, 1]])  # the second answer has ended after one step


def test_ranks_share_ties():
    assert scores.rank_correlation(np.array([1.0, 2, 2, 5]), np.array([10.0, 30, 30, 90])) == pytest.approx(1)
    assert scores.rank_correlation(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert math.isnan(scores.rank_correlation(np.ones(3), np.array([3.0, 2, 1])))


def test_the_first_heads_and_their_overlap():
    values = np.array([0.1, 0.5, 0.5, 0.9])
    assert scores.top(values, 3) == [3, 1, 2]
    assert scores.overlap(values, -values, 2) == 0.5  # head 1 stands second in both
    np.testing.assert_allclose(scores.activity(np.array([[0.2, 0.0], [0.3, 0.1]])), [1, 0])


def test_needles_hold_their_answers_and_questions_do_not():
    assert len(NEEDLES) >= 20
    assert len({needle.text for needle in NEEDLES}) == len(NEEDLES)
    for needle in NEEDLES:
        assert needle.text.count(needle.answer) == 1
        assert needle.question.endswith("?")
        assert scores.recall(needle.answer, needle.question) < 0.4, needle
        assert len(needle.answer.split()) >= 6, needle
        others = " ".join(other.text for other in NEEDLES if other is not needle)
        assert needle.answer not in others


def test_controls_cannot_be_answered_from_the_prompt():
    for control in (*FACTS, *SUMS):
        assert control.answer not in f"{control.question} {control.opening}".split(), control
    assert len(FACTS) >= 40 <= len(SUMS)
    assert all(eval(control.opening.removesuffix("=")) == int(control.answer) for control in SUMS)
