"""Numbers in a written text: all of them, the one it gives, and whether it offers two. Pure text work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?"
_NUMBER = re.compile(
    r"(?<![\w.:])(?P<sign>-\s?)?[$\u20ac\u00a3]?\s?(?P<minus>-)?(?=[.\d])"
    rf"(?P<number>{_DIGITS})"
    r"(?:\s+(?P<top>\d+)\s?/\s?(?P<bottom>\d+)|\s?/\s?(?P<over>\d+(?:\.\d+)?))?"
    r"(?:\s?(?:x|\u00d7|\*|\\times)\s?10\s?\^\s?\{?(?P<power>-?\d+)\}?|e(?P<exponent>[+-]?\d+))?"
    r"(?![\d:]\d|:\d)"
)
_FRACTION = re.compile(r"(?:(-)\s*)?\\[dt]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(-?[\d.,]+)\s*\}")
_MIXED = re.compile(r"(?<=\d)\s*(?=\\[dt]?frac)")  # `2\frac{1}{2}` is 2 1/2
# What may stand behind the number of a key.
_KEY_UNIT = re.compile(r"(?:(?:\s|[%\u20ac\u00a3$\u00b0]|(?!(?:st|nd|rd|th)\b)[A-Za-z])[^\d;]*)?")
_NEAR = 3  # words before the number that a text gives, at most
# After one of these a number counts something else: `Step 1`.
_COUNTED = frozenset("step part case question problem option equation figure line by from".split())  # noqa: SIM905
_PAIR = re.compile(r"(?:^|[\s(])\$?([\d.,]*\d)\s*(?:or|to|and|-)\s*\$?([\d.,]*\d)")
_LIST = re.compile(r"\d\s*,\s*-?(?!\d{3}(?!\d))\.?\d")  # `1, 5`; and `1,5`, where it is open what the comma is
_BETWEEN = re.compile(r"\b(?:between|from)\s+\$?([\d.,]*\d)\s+(?:and|to)\s+\$?([\d.,]*\d)")
_UNDONE = re.compile(  # 2 * 3, 2^3, 3 sqrt(2) or 4 pi, never worked out
    r"\d\s*(?:[+*\u00d7\u00f7]|\\times|\\cdot|\bx\b)\s*\$?\d"
    r"|\d\s?(?:\^|\u221a|\\sqrt|sqrt|\u03c0|\\pi\b|pi\b)|\d[\u00b2\u00b3]"
)
_SCIENTIFIC = re.compile(r"\s?(?:x|\u00d7|\*|\\times)\s?10\s?\^\s?\{?-?\d+\}?")  # 3 x 10^2
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:\s\d{3})+(?!\d)")  # `1 000`, or one of 0
_MEASURE = (
    r"\s?(?:years?|months?|weeks?|days?|hours?|hrs?|h|minutes?|mins?|seconds?|secs?|s|miles?|yards?|feet|foot|ft|inch(?:es)?"
    r"|in|km|m|cm|mm|kilomet(?:re|er)s?|(?:centi)?met(?:re|er)s?|kg|kilograms?|g|grams?|pounds?|lbs?|ounces?|oz|dollars?"
    r"|cents?|gallons?|quarts?|pints?|cups?|lit(?:re|er)s?|l|ml|degrees?)\b"
)
_TWO_UNITS = re.compile(rf"\d{_MEASURE}\s*,?\s*(?:and\s+)?\d[\d.]*{_MEASURE}", re.IGNORECASE)  # 5 minutes 30 seconds
_UNIT = r"(?:\s*(?!(?:is|are|was|were|be|equals|has|have|so|because)\b)[A-Za-z%\u00b0$][\w'\u00b2\u00b3/%-]*){0,6}"
_UNITS = re.compile(rf"{_UNIT}(?:\s\d+{_UNIT})?[\s*_)\].$]*")  # `apples`, and `apples in 2 baskets`
_EQUATION = re.compile(r"[^=A-Za-z]*(?:[A-Za-z]{1,12}\b[^=A-Za-z]*){0,6}=(?P<result>[^=]*)")


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
    """The number of a key such as `9 apples`, `25%`, `1 1/2` or `9m`; None unless it is one, with or without a unit."""
    text = plain_number(answer.strip())
    match = _NUMBER.match(text)
    if match is None or not _KEY_UNIT.fullmatch(text, match.end()):
        return None
    return next(numbers(match[0]), None)


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
    """Without what TeX writes into and around numbers (`1{,}200`, `\\$5`, `\\frac{1}{2}`); minus signs plain."""
    plain = text.replace("\u2212", "-").replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("\\!", "")
    return re.sub(r"(\d)\s*\\,\s*(\d{3})", r"\1,\2", _FRACTION.sub(r"\1\2/\3", _MIXED.sub(" ", plain)))


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


def two_numbers(text: str) -> bool:
    """Whether a text offers two unlike numbers (`5 or 6`, `5-6`, `5 m 6 cm`), or what is not worked out (`2 * 3`)."""
    text = _SCIENTIFIC.sub("", text.rsplit("=", 1)[-1])
    match = _PAIR.search(text) or _BETWEEN.search(text)
    return (
        any(one.search(text) for one in (_UNDONE, _SPACED, _TWO_UNITS))
        or bool(_LIST.search(plain_number(text)))
        or (match is not None and to_number(match[1]) != to_number(match[2]))
    )


def is_value_alone(text: str) -> bool:
    """Whether a text is a number with its unit, or one equation that ends in it, and nothing that goes on about it."""
    if (equation := _EQUATION.fullmatch(text)) is not None:
        text = equation["result"]
    text = plain_number(text).lstrip(" *_(\\[")
    match = _NUMBER.match(text)
    return match is not None and _UNITS.fullmatch(text, match.end()) is not None
