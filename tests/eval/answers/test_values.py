"""Numbers in texts, as exact fractions."""

from fractions import Fraction

import pytest

from eval.answers.values import is_value_alone, numbers, parse_gold, to_number, two_numbers, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,200", 1200), ("-3.50", Fraction(-7, 2)), ("$7", 7), ("25/3", Fraction(25, 3)), ("2.5/0.5", 5),
        ("1/0", None), ("2.5/0", None), ("a/2.5", None), ("1.5/2/3", None), ("seven", None),
    ],
)  # fmt: skip
def test_a_number_alone(text, value):
    assert to_number(text) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("9 apples", 9), ("25%", 25), ("1 1/2", Fraction(3, 2)), ("9m", 9), (" 3 x 10^2", 300),
        ("9th", None), ("none", None), ("5; 6", None), ("1 1/0", None),
    ],
)  # fmt: skip
def test_the_number_of_a_key(key, value):
    assert parse_gold(key) == value


def test_all_numbers_of_a_text_in_order():
    assert list(numbers("From 1,200 take -3.5, then \\frac{1}{2}, and 2e3.")) == [
        1200,
        Fraction(-7, 2),
        Fraction(1, 2),
        2000,
    ]
    assert list(numbers("1 1/0 and 4/0")) == []  # a division by zero is no number
    assert list(numbers("9e999999")) == []  # nor is what no one writes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 = 5 apples", 5),
        ("He has 7 left", 7),
        ("Step 1 is easy", None),
        ("the 2nd of many words", None),
        ("=", None),
    ],
)
def test_the_number_that_a_text_gives(text, value):
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The answer is \\frac{1}{2}.", Fraction(1, 2)), ("2\\frac{1}{2}", Fraction(5, 2)),
        ("2 \\dfrac{1}{2}", Fraction(5, 2)), ("- \\tfrac{3}{4}", Fraction(-3, 4)), ("x = \\frac{6}{4}", Fraction(3, 2)),
    ],
)  # fmt: skip
def test_tex_fractions_stand_apart_from_the_word_before_them(text, value):
    assert value_of(text) == value


def test_two_numbers_and_what_is_not_worked_out():
    assert two_numbers("5 or 6")
    assert two_numbers("2 * 3")
    assert two_numbers("5 m 6 cm")
    assert not two_numbers("5 or 5.0")
    assert not two_numbers("3 x 10^2")


def test_a_value_that_stands_alone():
    assert is_value_alone("12 apples")
    assert is_value_alone("total = 12")
    assert not is_value_alone("12 is the number of apples that he has")
