"""The question schema: what is refused and where, ids, repeats, and the draw by seed."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.questions.schema import draw, drop_repeats, format_questions, parse_question, question_id, read_questions
from prune.common.errors import RegrowthError
from tests.support.questions import ROW

ROW = {**ROW, "id": "a", "question": "Which?", "choices": ["one", "two"]}


def test_a_question_survives_writing_and_reading(tmp_path):
    open_ = {**ROW, "id": "b", "choices": None, "answer": "9 äpfel\u2028 x", "question": "line\nline"}
    items = [parse_question(ROW), parse_question(open_)]
    path = tmp_path / "d.jsonl"
    path.write_text(format_questions(items), encoding="utf-8")
    assert read_questions(path) == items
    assert [q.protocol for q in items] == ["choice", "generation"]
    assert [q.chance for q in items] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answer": 2}, "answer must be the 0-based index of a choice, 0 to 1"),
        ({"answer": True}, "answer.int: Input should be a valid integer"),
        ({"answer": "two"}, "0-based index"),
        ({"choices": ["one"]}, "two or more"),
        ({"choices": ["one", "one "]}, "the same"),
        ({"choices": ["one", ""]}, "choices.1: must be text that is not empty"),
        ({"choices": None}, "answer must be one number as text"),
        ({"question": "  "}, "question: must be text"),
        ({"licence": None}, "licence: Input should be a valid string"),
        ({"extra": 1}, "extra: Extra inputs"),
    ],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, change, why):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n" + json.dumps({**ROW, "id": "b", **change}) + "\n")
    with pytest.raises(RegrowthError, match=why) as caught:
        read_questions(path)
    assert str(caught.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no questions"),
        ("{", ":1: not JSON"),
        ("[]", ":1: Input should be a valid dictionary"),
        (json.dumps({k: v for k, v in ROW.items() if k != "source"}), ":1: source: Field required"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW), ":2: the id 'a' already stands on line 1"),
    ],
)
def test_broken_files(tmp_path, text, why):
    path = tmp_path / "d.jsonl"
    path.write_text(text)
    with pytest.raises(RegrowthError, match=why):
        read_questions(path)


def test_ids_hang_on_content_alone():
    contents = [("q", ["a", "b"], 0), ("q", ["a", "b"], 1), ("q", None, "0"), ("Q", ["a", "b"], 0)]
    assert len({question_id(*content) for content in contents}) == 4
    assert question_id("q", ["a", "b"], 0) == question_id("q", ("a", "b"), 0)


def test_repeats_are_found_through_case_space_and_order_of_choices():
    first = parse_question(ROW)
    same = replace(first, id="b", question=" which? ", choices=("Two", "one"), answer=0)
    other = replace(first, id="c", choices=("one", "three"))
    assert drop_repeats([first, same, other]) == ([first, other], 1)


MANY = [replace(parse_question(ROW), id=f"q{i}") for i in range(40)]


@given(st.integers(0, 5), st.integers(2, 30))
def test_a_draw_hangs_on_seed_and_ids_and_grows_with_the_limit(seed, limit):
    drawn = draw(MANY, limit=limit, seed=seed)
    assert drawn == draw(reversed(MANY), limit=limit, seed=seed)
    assert draw(MANY, limit=limit + 5, seed=seed)[:limit] == drawn
    assert len({q.id for q in drawn}) == limit


def test_seeds_draw_differently():
    assert draw(MANY, limit=10, seed=0) != draw(MANY, limit=10, seed=1)
    assert sorted(q.id for q in draw(MANY, limit=None, seed=3)) == sorted(q.id for q in MANY)
