"""Numbers out of answers: what a model wrote after the prompt, and what the key says. Pure text work."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:\s?/\s?\d+)?"
_FIND = re.compile(rf"(?<![\w.])(?=[-$.]*\d)({_NUMBER})")


def to_number(text: str) -> Fraction | None:
    """`1,200`, `-3.50`, `$7` or `25/3` as an exact fraction; None where it is no number."""
    text = text.replace(",", "").replace("$", "").replace(" ", "")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        parts = text.split("/")
        try:
            return Fraction(parts[0]) / Fraction(parts[1]) if len(parts) == 2 else None
        except (ValueError, ZeroDivisionError):
            return None


def parse_gold(answer: str) -> Fraction | None:
    """The number of a key such as `9 apples`; None unless it is one number, with or without a unit after it."""
    match = re.fullmatch(rf"({_NUMBER})(?:\s+[^\d;]*)?", answer.strip())
    return to_number(match.group(1)) if match else None


def parse_number(response: str) -> Fraction | None:
    """The number that an at-once answer gives; None where it gives none (counted as unparseable, and wrong).

    Only the first line counts. A result after the last `=` goes before the first number of the line, so that
    `9 apples in 2 baskets` gives 9 and `4 + 5 = 9` gives 9 as well. Units and currency signs fall away.
    """
    line = response.strip().split("\n", 1)[0]
    for part in ([line.rsplit("=", 1)[1]] if "=" in line else []) + [line]:
        if match := _FIND.search(part):
            return to_number(match.group(1))
    return None
