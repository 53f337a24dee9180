"""Queries of procedures: worked answers are right, prompts differ, a seed settles them."""

import re

import pytest

from heal.ranking.procedures import CONTROLS, PROCEDURES, procedure_queries


def test_a_seed_settles_them_and_more_queries_keep_those_that_were_there():
    few, many = procedure_queries(3, controls=2, seed=4), procedure_queries(9, controls=4, seed=4)
    assert few == procedure_queries(3, controls=2, seed=4)
    assert set(few) <= set(many)
    assert few != procedure_queries(3, controls=2, seed=5)


def test_names_and_prompts_differ():
    queries = procedure_queries(100, controls=100, seed=0)
    assert len({query.name for query in queries}) == len(queries) == 600
    assert len({query.prompt for query in queries}) == 600
    assert {query.domain for query in queries} == {PROCEDURES, CONTROLS}


def test_every_step_of_a_worked_answer_is_right():
    for query in procedure_queries(100, controls=0, seed=0):
        checked = 0
        for sentence in re.split(r"\. |: |, ", query.answer.rstrip(".")):
            sides = [side for side in sentence.split(" = ") if re.fullmatch(r"[\d ()+*/-]+", side)]
            assert len({eval(side) for side in sides}) <= 1, query.answer
            checked += len(sides) > 1
        assert checked, query.answer
        assert query.answer.rstrip(".").endswith(query.key)


def test_the_key_solves_what_was_asked():
    for query in procedure_queries(50, controls=0, seed=0):
        numbers = [int(word) for word in re.findall(r"\d+", query.prompt)]
        if query.procedure == "two-step arithmetic":
            a, b, c = numbers
            assert (a + b) * c == int(query.key)
        elif query.procedure == "slope":
            x1, y1, x2, y2 = numbers
            assert (y2 - y1) / (x2 - x1) == int(query.key)
        else:
            a, b, c = numbers
            assert a * int(query.key) + b == c


def test_controls_show_no_result():
    for query in procedure_queries(0, controls=20, seed=0):
        assert query.key == ""
        assert set(re.findall(r"\d+", query.answer)) <= set(re.findall(r"\d+", query.prompt))


def test_a_number_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="0 to 100"):
        procedure_queries(101, controls=0, seed=0)
