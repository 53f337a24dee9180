"""Controls: a rationale beside another question of its set, of about its length, each used once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eval.depth.pairing import pair_rationales
from tests.support.questions import question_of


def _questions(count, source="own", **changes):
    return [question_of(id=f"{source}{i}", source=source, rationale=f"{source} {i}", **changes) for i in range(count)]


@given(st.lists(st.integers(1, 200), min_size=2, max_size=30), st.integers(0, 3))
def test_each_rationale_stands_once_beside_another_question_of_about_its_length(lengths, seed):
    partners = pair_rationales(_questions(len(lengths)), lengths, seed)
    assert sorted(partners) == list(range(len(lengths)))
    assert (partners != np.arange(len(lengths))).all()
    ranks = np.argsort(np.argsort(lengths, kind="stable"))
    assert np.abs(ranks - ranks[partners]).max() <= 12  # two groups at most, ties apart


def test_it_hangs_on_the_seed_and_on_nothing_else():
    questions, lengths = _questions(20), list(range(1, 21))
    first = pair_rationales(questions, lengths, 0)
    assert (pair_rationales(questions, lengths, 0) == first).all()
    assert (pair_rationales(questions, lengths, 1) != first).any()
    backwards = pair_rationales(questions[::-1], lengths[::-1], 0)
    assert (19 - backwards[::-1] == first).all()


def test_no_question_gets_one_of_another_set_or_passage_or_of_the_same_words():
    questions = [*_questions(8), *_questions(8, "other")]
    partners = pair_rationales(questions, [5] * 16, 0)
    assert all((number < 8) == (partner < 8) for number, partner in enumerate(partners))
    alike = [*_questions(2, cluster="p"), *_questions(2, "own2", cluster="q")]
    alike = [question_of(**{**vars(q), "choices": list(q.choices), "source": "own"}) for q in alike]
    partners = pair_rationales(alike, [5] * 4, 0)
    assert sorted(partners) == [0, 1, 2, 3]
    assert all((number < 2) != (partner < 2) for number, partner in enumerate(partners))
    same = [question_of(id=name, rationale="the same words") for name in "ab"]
    assert pair_rationales(same, [5, 5], 0).tolist() == [-1, -1]


def test_one_alone_has_none_and_those_without_a_rationale_take_no_part():
    questions = [*_questions(1), *_questions(3, "other")]
    assert pair_rationales(questions, [5, 4, 0, 4], 0).tolist() == [-1, 3, -1, 1]
