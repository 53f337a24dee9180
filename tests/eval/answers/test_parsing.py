"""The answer parser: forms that models write, texts that say nothing or two things, and real generations."""

import string
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.answers.parsing import parse_letter, parse_value
from eval.runs.files import read_lines
from prune.writing.words import show_options

DRUGS = ["aspirin", "ibuprofen", "a fever", "heparin"]
REAL = read_lines(Path(__file__).parents[2] / "data" / "generations.jsonl")


def _parsed(row):
    if row["choices"] is None:
        return parse_value(row["response"])
    return parse_letter(row["response"], row["choices"])


def _said(row):
    return row["says"] if row["says"] is None or row["choices"] else Fraction(row["says"])


def test_real_generations_are_never_read_as_what_they_do_not_say():
    wrong = [(row["response"][-80:], _parsed(row)) for row in REAL if _parsed(row) not in (None, _said(row))]
    assert wrong == []


def test_real_generations_that_say_something_are_read():
    said = [row for row in REAL if row["says"] is not None]
    refused = [row for row in said if _parsed(row) is None]
    assert len(REAL) >= 360
    assert len(said) >= 230
    assert len(refused) <= 5, [row["response"][:80] for row in refused]


@pytest.mark.parametrize(
    ("index", "texts"),
    [
        (0, ("Answer: A because it thins the blood", "The answer is aspirin.")),
        (1, ("(B)", " B", "B.", " b)", "b", "**B**", "B. ibuprofen", "ibuprofen", "Ibuprofen.")),
        (1, ("The answer is B", "The answer is: (B)", "Answer:\nB", "\\boxed{B}")),
        (1, ("B is the correct answer.", "Therefore, B is correct.", "So B is the answer.")),
        (1, ("I would choose B", "I'd pick option B.", "I would go with (B) because it thins the blood.")),
        (1, ("The best answer choice is B", "the answer is probably B", "Final answer - B", "It's B")),
        (1, ("It\u2019s B.", "It is B!", "B!", "Answer: <B>")),
        (1, ("Let me think. Aspirin is old. Therefore, B is correct.",)),
        (2, ("The answer is\n\n**C**", "$\\boxed{\\text{C}}$", "Option C is correct")),
        (2, ("(C) is the right one, so the best choice is C.", "The answer is a fever.")),
        (2, ("First A seems right. The answer is A. No wait, the answer is C.", "Answer: B\n\nAnswer: C")),
        (2, ("Option A is incorrect. Option C is correct.",)),
        (3, ("The correct answer is **(D) heparin**.", "The final answer to the question is therefore D.")),
        (3, ("#### D", "The answer is most likely heparin, which is given first.")),
        (3, ("Neither helps. So it is D.", "A fever is common.\nSo the correct option is (D).")),
        (3, ("Aspirin, ibuprofen and heparin all act.\nheparin", "D\nQuestion: what else?\nAnswer: A")),
    ],
)
def test_options_that_are_named(index, texts):
    assert {text: parse_letter(text, DRUGS) for text in texts} == dict.fromkeys(texts, index)


@pytest.mark.parametrize(
    "texts",
    [
        ("Answer: B or maybe C", "Answer: B, or C", "B or perhaps option C", "I would choose B or C"),
        ("I would choose a drug", "B is the correct answer to something else"),
        ("Therefore, B is correct. Therefore, C is correct.", "It's A man with a headache"),
        ("So B is right-handed", "Final answer - a guess", "Answer: <E>", "", "   \n", "I do not know.", "E"),
        ("The answer is E.", "A or B", "The answer is either A or B", "The answer is A and B", "Answer: A/B"),
        ("Both A and C are right", "The answer is not B", "None of the above", "B. aspirin"),
        ("The answer is B. heparin", "A. aspirin: no\nB. ibuprofen: yes", "C.D.D.A.D.B."),
        ("(A) is correct. (B) is correct.", "A man with a headache takes a drug, and then"),
        ("Because the blood is thin", "One option is surgery", "D.ism, which is based on"),
    ],
)
def test_what_names_no_option_or_two_is_refused(texts):
    assert [text for text in texts if parse_letter(text, DRUGS) is not None] == []


@pytest.mark.parametrize(
    ("choices", "read"),
    [
        (
            ["aspirin", "heparin", "None of the above", "both"],
            {"Answer: none of the above": 2, "None of the above.": 2, "The answer is none of the above!": 2, "C": 2},
        ),
        (["aspirin", "heparin", "None of the above", "both"], {"Answer: none of these": None}),
        (["-3", "3", "0", "13"], {"-3": 0, "3": 1, "The answer is -3.": 0, "$-3$": 0, "13": 3, "30": None}),
        (["-3", "3", "0", "13"], {"\\boxed{3}": 1}),
        (["T cells", "plasma", "B cells", "I and II"], {"B cells": 2, "The answer is I and II.": 3, "B": 1}),
        (["T cells", "plasma", "B cells", "I and II"], {"The answer is B cells because they": None}),  # B says plasma
        (["the heart", "the left heart", "the liver"], {"The answer is the left heart.": 1}),
        (["the heart", "the left heart", "the liver"], {"The answer is the heart.": 0}),
    ],
)
def test_options_that_say_none_are_numbers_begin_like_a_letter_or_overlap(choices, read):
    assert {text: parse_letter(text, choices) for text in read} == read


@given(st.integers(0, 25), st.sampled_from(["{}", "({})", "{}.", "**{}**", "The answer is {}.", "\\boxed{{{}}}"]))
def test_every_letter_in_every_form(index, form):
    choices = [f"option number {i}" for i in range(26)]
    assert parse_letter(form.format(string.ascii_uppercase[index]), choices) == index


@given(
    st.lists(st.text(string.ascii_lowercase, min_size=4, max_size=9), min_size=2, max_size=6, unique=True), st.data()
)
def test_an_option_line_as_it_was_shown(choices, data):
    index = data.draw(st.integers(0, len(choices) - 1))
    shown = show_options(choices).split("\n")
    assert parse_letter(f"Answer: {shown[index]}", choices) == index
    assert parse_letter("\n".join(shown), choices) is None


@given(st.text(max_size=80))
def test_any_text_gives_an_option_a_number_or_nothing(text):
    assert parse_letter(text, DRUGS) in (None, 0, 1, 2, 3)
    assert parse_value(text) is None or isinstance(parse_value(text), Fraction)


@pytest.mark.parametrize(
    "read",
    [
        {"#### 18": "18", "- 5": "-5", "1 1/2": "3/2", "$-5": "-5", "2 x 10^3": "2000", "It's 12 pens.": "12"},
        {"2^3 = 8": "8", "5 minutes 30 seconds = 330 seconds": "330", "9 m in 2 s": "9", "####18": "18"},
        {" 19 pens": "19", "$18": "18", "-$7.25": "-29/4", "$-4": "-4", "\u22125": "-5", "-3 degrees": "-3"},
        {"25%": "25", "25 percent": "25", " 9 apples in 2 baskets": "9", "It is $1,200.50.": "2401/2"},
        {"The answer is 7.": "7", "1/2 of it": "1/2", "3.5kg": "7/2", "4 + 5 = 9 apples": "9", "10-5=5": "5"},
        {"2 1/2 hours": "5/2", "1.5e3": "1500", "3 \\times 10^{2}": "300", "The answer is 1,200.": "1200"},
        {"The answer is 3.50 dollars.": "7/2", "Answer: 18.00": "18", "Answer: 1/3": "1/3", "Answer: x = 5": "5"},
        {"Answer: 10 - 5 = 5": "5", "The answer is that he has 18 pens": "18", "\\boxed{\\frac{1}{2}}": "1/2"},
        {"\\boxed{1{,}234}": "1234", "The final answer is: $\\boxed{12}$.": "12"},
        {"So he has 24 - 5 = 19 pens.\nAnswer: 19": "19", "Answer: 12\nWait, that is wrong.\nAnswer: 15": "15"},
        {"He has 3 boxes of 4. So there are 12.": "12", "## Step 2: add\n#### 7": "7"},
        {"12\nQuestion: and then?\nAnswer: 13": "12"},
    ],
)
def test_numbers_that_are_given(read):
    assert {text: parse_value(text) for text in read} == {text: Fraction(number) for text, number in read.items()}


@pytest.mark.parametrize(
    "texts",
    [
        ("", "none", "nine", "x =", "5 or 6", "12 or 13", "Answer: 3 and 4", "10^3", "2^3", "Answer: 2^3"),
        ("Answer: 10\u00b3", "Answer: 1 000 000", "1 000 000", "3\u221a2", "Answer: 3\\sqrt{2}"),
        ("Answer: 16\u03c0", "5 minutes 30 seconds", "Answer: 5 feet, 6 inches", "Answer: 9 dollars and 50 cents"),
        ("Answer: 5-6", "between 5 and 6", "Answer: 1, 5", "Answer: 1,5", "Answer: 2 * 3", "3:15", "1/0"),
        ("He has 3 pens and 4 caps.", "20% of 50 is 10% of 50, so 20% of 50 is 10% of 50."),
        ("The answer is found by adding 5 and 6.", "The answer is to the 10 in the end."),
        ("Answer:\n\nStep 1: add 2 and 3", "So 512 legs is 512 * 2 = 1024 legs. So 1024 legs is 1024"),
        ("So it is 2 * 4 = 8. So it is 2 * 4 = 8.",),
    ],
)
def test_what_gives_no_number_or_two_is_refused(texts):
    assert [text for text in texts if parse_value(text) is not None] == []


@given(
    st.integers(-(10**9), 10**9),
    st.sampled_from(["{}", "Answer: {}", "#### {}", "So the answer is {}.", "\\boxed{{{}}}"]),
)
def test_every_integer_in_every_form(value, form):
    assert parse_value(form.format(value)) == value
    assert parse_value(form.format(f"{value:,}")) == value


@given(st.integers(-999, 999), st.integers(1, 99))
def test_fractions_are_exact(top, bottom):
    wanted = Fraction(top, bottom)
    sign = "-" if top < 0 else ""
    assert parse_value(f"Answer: {top}/{bottom}") == wanted
    assert parse_value(f"Answer: {sign}\\frac{{{abs(top)}}}{{{bottom}}}") == wanted
    assert parse_value(f"Answer: {top / 8}") == Fraction(top, 8)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" Ben has 20 cards.", 20),
        (" She is 3.5 m tall.", Fraction(7, 2)),
        (" He will have 12 trays of 20 trays of food.", None),
        (" Ben has 20 cards. He buys 3 more.", None),
        (" Ben has not 20 cards.", None),
        (" Ben has 20 cards", None),
        (" by using of a pen and a 2-pint to his.", None),
    ],
)
def test_one_short_sentence_with_one_number_is_an_answer(text, value):
    """As small models write them in place of a number alone."""
    assert parse_value(text) == value
