"""Numbers in a written text: all of them, the one it gives, and whether it offers two. Pure text work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from eval.answers.numbers import to_number

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?"
_NUMBER = re.compile(
    r"(?<![\w.:])(?P<sign>-\s?)?[$\u20ac\u00a3]?\s?(?P<minus>-)?(?=[.\d])"
    rf"(?P<number>{_DIGITS})"
    r"(?:\s+(?P<top>\d+)\s?/\s?(?P<bottom>\d+)|\s?/\s?(?P<over>\d+(?:\.\d+)?))?"
    r"(?:\s?(?:x|\u00d7|\*|\\times)\s?10\s?\^\s?\{?(?P<power>-?\d+)\}?|e(?P<exponent>[+-]?\d+))?"
    r"(?![\d:]\d|:\d)"
)
_FRACTION = re.compile(r"(-?)\s*\\[dt]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(-?[\d.,]+)\s*\}")


def numbers(text: str) -> Iterator[Fraction]:
    """Every number of a text as an exact fraction, in order: `1,200`, `-3.5`, `2 1/2`, `3 x 10^2`, TeX fractions."""
    for match in _NUMBER.finditer(plain_number(text)):
        value = to_number(match["number"])
        if value is None:
            continue
        if match["top"]:
            if not int(match["bottom"]):
                continue
            value += Fraction(int(match["top"]), int(match["bottom"]))
        elif match["over"]:
            divisor = to_number(match["over"])
            if not divisor:
                continue
            value /= divisor
        power = int(match["power"] or match["exponent"] or 0)
        if abs(power) <= 300:
            value *= Fraction(10) ** power
            yield -value if match["sign"] or match["minus"] else value


def plain_number(text: str) -> str:
    """Without what TeX writes into and around numbers: `1{,}200`, `\\$5`, `\\frac{1}{2}`."""
    plain = text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("\\!", "")
    return re.sub(r"(\d)\s*\\,\s*(\d{3})", r"\1,\2", _FRACTION.sub(r"\1\2/\3", plain))


def value_of(text: str) -> Fraction | None:
    """The number that a text gives: after its last `=` if there is one, else its first, if that stands near the start.

    Near: after three words at most, none of which says that the number counts something else (`Step 1`).
    """
    if "=" in text:
        for value in numbers(text.rsplit("=", 1)[1]):
            return value
    plain = plain_number(text)
    first = _NUMBER.search(plain)
    words = re.findall(r"[a-z]+", plain[: first.start()].casefold()) if first else []
    if first is None or len(words) > _NEAR or _COUNTED & set(words) or words[-1:] == ["the"]:
        return None
    return next(numbers(plain), None)


_NEAR = 3  # words
_COUNTED = frozenset("step part case question problem option equation figure line by from".split())  # noqa: SIM905
_PAIR = re.compile(r"(?:^|[\s(])\$?([\d.,]*\d)\s*(?:or|to|-)\s*\$?([\d.,]*\d)")
_LIST = re.compile(r"\d\s*,\s*-?(?!\d{3}(?!\d))\.?\d")  # `1, 5`; and `1,5`, where it is open what the comma is
_BETWEEN = re.compile(r"\b(?:between|from)\s+\$?([\d.,]*\d)\s+(?:and|to)\s+\$?([\d.,]*\d)")
_UNDONE = re.compile(r"\d\s*(?:[+*\u00d7\u00f7]|\\times|\\cdot|\bx\b)\s*(?!10\s?\^)\$?\d")  # 2 * 3, never worked out


def two_numbers(text: str) -> bool:
    """Whether a text offers two unlike numbers (`5 or 6`, `5-6`), or a sum that is not worked out (`2 * 3`)."""
    text = text.rsplit("=", 1)[-1]
    match = _PAIR.search(text) or _BETWEEN.search(text)
    return bool(_UNDONE.search(text) or _LIST.search(plain_number(text))) or (
        match is not None and to_number(match[1]) != to_number(match[2])
    )


_UNIT = r"(?:\s*(?!(?:is|are|was|were|be|equals|has|have|so|because)\b)[A-Za-z%\u00b0$][\w'\u00b2\u00b3/%-]*){0,6}"
_UNITS = re.compile(rf"{_UNIT}(?:\s\d+{_UNIT})?[\s*_)\].$]*")  # `apples`, and `apples in 2 baskets`
_EQUATION = re.compile(r"[^=A-Za-z]*(?:[A-Za-z]{1,12}\b[^=A-Za-z]*){0,6}=(?P<result>[^=]*)")


def is_value_alone(text: str) -> bool:
    """Whether a text is a number with its unit, or one equation that ends in it, and nothing that goes on about it."""
    if (equation := _EQUATION.fullmatch(text)) is not None:
        text = equation["result"]
    text = plain_number(text).lstrip(" *_(\\[")
    match = _NUMBER.match(text)
    return match is not None and _UNITS.fullmatch(text, match.end()) is not None
