"""What a written answer says: a letter, an option or a number, or nothing that can be told. Pure text work.

Two kinds of evidence count, the stronger first: a statement (`The answer is B`, `\\boxed{7}`, `#### 18`), of which the
last that decides anything counts, for it is where a chain of thought arrives; and, without any, a text that is an
answer and nothing else. What names two answers at once names none: a parser that picks one would turn a model's
confusion into accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from eval.answers.statements import BOXED, own_words, statements, unboxed
from eval.answers.values import is_value_alone, numbers, two_numbers, value_of

_NO = re.compile(r"^\W*(?:not|none|neither|unknown|unclear|incorrect|wrong|n't|either|one\s+of)\b", re.IGNORECASE)
_DENIES = re.compile(r"\b(?:not|never|wrong|incorrect|false|cannot|neither|nor)\b|n't\b", re.IGNORECASE)
_SO_LETTER = re.compile(r"\b(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence)\b[^.]*?\b(?:option\s+)?\(?([A-Z])\)?\.?$")
_LABEL_LATER = re.compile(r"(?<=.)(?:\(|\b[Oo]ption\s|\b[Cc]hoice\s)([A-Z])\b")
_THAT_IS_IT = re.compile(r"\W*(?:this|that|which) is the (?:final |correct )?answer\b", re.IGNORECASE)
_IT_IS = re.compile(r"^(?:it|that)(?:'s|\u2019s|\s+is)\s+", re.IGNORECASE)
_LABELS = re.compile(r"\W*[A-Z](?:[.,:;)\s]+[A-Z]){2,}(?![a-z'])")  # `C.D.D.A.`
_SHORT = 40  # words
_ENOUGH_WORDS = 3
_NEAR = 3  # words that may stand before an option's own, as in `the answer is most likely aspirin`
_TWO = -1  # two answers at once
_SENTENCE = re.compile(r"[A-Z][\w'\u2019]*(?:\s+(?!\S*[.!?]\s)\S+){1,12}[.!]")
_CONCLUDES = re.compile(r"^\W*(?:so|thus|therefore|hence|finally|in\s+total|altogether|consequently)\b", re.IGNORECASE)


def parse_letter(response: str, choices: Sequence[str]) -> int | None:
    """The 0-based index of the option that a response chooses, by its letter or its text; None where that is open.

    Args:
        response: what the model wrote after the options (letters A, B, ... in their order) had been shown.
        choices: the options' texts.
    """
    text = own_words(response)
    for statement in reversed(list(statements(text))):
        found = _option_of(statement, choices)
        if found is not None:
            return None if found == _TWO else found
    found = _bare_option(text, choices)
    return None if found == _TWO else found


def parse_value(response: str) -> Fraction | None:
    """The number that a response arrives at, exactly; None where it arrives at none, or at two.

    Units, currency and percent signs fall away (`25 %` is 25), and `1/2`, `0.5`, `\\frac{1}{2}` are one number. What is
    not worked out (`2^3`, `3\u221a2`), or given in two units (`5 minutes 30 seconds`), is none.
    """
    text = own_words(response)
    stated = list(statements(text))
    for statement in reversed(stated):
        if _NO.match(statement):
            continue
        if two_numbers(statement):
            return None
        value = value_of(statement)
        if value is not None:
            return value
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) > 1 and _THAT_IS_IT.match(lines[-1]):
        return value_of(re.split(r"(?<=[.!])\s+(?=[A-Z])", lines[-2])[-1])
    if len(lines) == 1:
        lines = [_IT_IS.sub("", lines[0])]
    alone = {value_of(line) for line in {*lines[:1], *lines[-1:]} if is_value_alone(line) and not two_numbers(line)}
    if alone:
        return alone.pop() if len(alone) == 1 else None
    if len(lines) == 1 and not stated and (value := _sole_number(lines[0])) is not None:
        return value
    return _conclusion(lines[-1]) if lines else None


def _sole_number(line: str) -> Fraction | None:
    """The number of a text that is one whole short sentence with no other: `Ben has 20 cards.`"""
    if not _SENTENCE.fullmatch(line) or _DENIES.search(line) or two_numbers(line):
        return None
    found = set(numbers(line))
    return found.pop() if len(found) == 1 else None


def _conclusion(line: str) -> Fraction | None:
    """The number of a last sentence such as `So there are 12 left.`; none of one that breaks off or says it again."""
    *before, last = re.split(r"(?<=[.!])\s+(?=[A-Z\d])", line)
    if not _CONCLUDES.match(last) or not re.search(r"[.!]\W*$", last) or last in before:
        return None
    found = list(numbers(last))
    return found[0] if len(found) == 1 else value_of(last) if "=" in last else None


def _option_of(statement: str, choices: Sequence[str]) -> int | None:
    """The one option that a short statement names; None where it names none, `_TWO` where two or more."""
    statement = _plain_marks(statement)
    if (whole := _whole_option(statement, choices)) is not None:  # `none of the above` may be an option
        return whole
    if not statement or _NO.match(statement):
        return None
    if _names_several(statement, len(choices)) or _LABELS.match(statement):
        return _TWO
    by_letter, rest = _leading_letter(statement, len(choices))
    if by_letter is None:
        return _option_in(statement, choices)
    by_words = _option_opening(statement, choices)  # `B cells` may be an option, and not the second one
    if by_words is not None and by_words != by_letter:
        return by_words if _words(statement) == _words(choices[by_words]) else _TWO
    beside = {_option_opening(rest, choices), _option_begun(rest, choices)} - {None, by_letter}
    return _TWO if beside else by_letter


def _leading_letter(text: str, count: int) -> tuple[int | None, str]:
    """A label at the start of a text (`(B)`, `B.`, `b)`, `option B`, a `B` alone), and what follows it."""
    match = re.match(
        r"(?:(?:option|choice|letter|answer)\s+)?(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?=[.:,;](?:\s|$)|[)\]]|$)|([A-Z])(?=\s))",
        text,
        re.IGNORECASE if re.match(r"(?:option|choice|letter|answer)\s", text, re.IGNORECASE) else 0,
    )
    if match is None:
        return None, text
    letter = next(group for group in match.groups() if group)
    index, rest = ord(letter.upper()) - ord("A"), text[match.end() :].lstrip(" .):,;]-")
    if index >= count:
        return None, text
    bare = match.group(4) is not None
    if bare and letter in "AI" and not re.match(r"(?:because|since|as|for|is|or|and|\W)", rest):
        return None, text  # "A fever ...": an article
    return index, rest


def _option_in(text: str, choices: Sequence[str]) -> int | None:
    """The option whose words stand near the start of a text that denies nothing; the longest where options overlap."""
    words = _words(text)
    found = []
    for index, choice in enumerate(choices):
        wanted = _words(choice)
        before, stands, _ = f" {words} ".partition(f" {wanted} ") if wanted else ("", "", "")
        if stands and len(before.split()) <= (_NEAR if len(wanted) > 1 else 0):
            found.append((len(wanted), index))
    if not found or _DENIES.search(text):
        return None
    best = _words(choices[max(found)[1]])
    if (
        any(_words(choices[index]) not in best for _, index in found)
        or [size for size, _ in found].count(len(best)) > 1
    ):
        return _TWO
    return max(found)[1]


def _option_opening(text: str, choices: Sequence[str]) -> int | None:
    """The option whose words open a text, the longest of them; None for none and for two alike."""
    words = f"{_words(text)} "
    found = [(len(_words(c)), i) for i, c in enumerate(choices) if _words(c) and words.startswith(f"{_words(c)} ")]
    return max(found)[1] if found and [size for size, _ in found].count(max(found)[0]) == 1 else None


def _option_begun(text: str, choices: Sequence[str]) -> int | None:
    """The option that a text of some words is the beginning of, where the answer was cut within it."""
    words = f"{_words(text)} "
    found = [index for index, choice in enumerate(choices) if f"{_words(choice)} ".startswith(words)]
    return found[0] if len(found) == 1 and len(words.split()) > _ENOUGH_WORDS else None


def _names_several(statement: str, count: int) -> bool:
    """Whether labels are strung together: `A or B`, `(A) and (C)`, `A, B`, `B/C`."""
    last = chr(ord("A") + count - 1)
    label = rf"\(?[A-{last}]\)?"
    between = r"\s*(?:,\s*(?:or|and)?|/|&|or|and)\s*(?:(?:maybe|perhaps|possibly|probably|even|also|option|choice)\s+)*"
    match = re.match(rf"\W*(?:both\s+)?({label}){between}({label})(?![\w'])", statement)
    return match is not None and match[1].strip("()") != match[2].strip("()")


def _bare_option(text: str, choices: Sequence[str]) -> int | None:
    """Without a statement: labels that open lines, if they agree, or a text that is one option and nothing else."""
    lines = [line for line in map(_plain_marks, text.split("\n")) if line]
    if not lines:
        return None
    first, last = (_whole_option(line, choices) for line in (lines[0], lines[-1]))
    if first is not None and (len(lines) == 1 or last in (None, first)):
        return first
    labelled = [line for line in lines if _is_label(line, len(choices))]
    if len(text.split()) > _SHORT:  # a long text may open with a label without choosing it
        labelled = [
            line for line in labelled if _whole_option(_leading_letter(line, len(choices))[1], choices) is not None
        ]
    named = {_option_of(line, choices) for line in labelled}
    named |= {ord(label) - ord("A") for line in labelled for label in _LABEL_LATER.findall(line)}
    if named:
        return named.pop() if len(named) == 1 else _TWO
    if match := _SO_LETTER.search(lines[-1]):
        return _option_of(match[1], choices)
    if len(lines) > 1:
        return last
    opening = _option_opening(lines[0], choices)  # one sentence that opens with an option's words and goes on
    if opening is None or _DENIES.search(lines[0]) or re.search(r"[.!?]\s", lines[0]):
        return None
    return opening if len(re.findall(r"[a-z]{2,}", _words(choices[opening]))) >= _ENOUGH_WORDS else None


def _whole_option(line: str, choices: Sequence[str]) -> int | None:
    """The option that a line is, word for word."""
    found = [index for index, choice in enumerate(choices) if _words(choice) == _words(line) != ""]
    return found[0] if len(found) == 1 else None


def _is_label(line: str, count: int) -> bool:
    last = chr(ord("A") + count - 1)
    label = rf"\(?[A-{last}](?:[)\]]|[.:](?:\s|$))|\(?[a-{last.lower()}]\)|[A-{last}](?:$|\s*[,;-])|[a-{last.lower()}]$"
    return re.match(rf"(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:{label})", line) is not None


def _plain_marks(text: str) -> str:
    """Without emphasis, quotes, TeX wrappers and a trailing full stop."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text)
    if match := BOXED.search(text):
        text = unboxed(text, match.end())
    text = re.sub(r"<\s*([A-Za-z])\s*>", r"\1", text)
    return re.sub(r"[*_`\"\u201c\u201d]+|^(?:[\s>$#]|-\s)+|\$+\s*$", "", text).strip().rstrip(".!").strip()


def _words(text: str) -> str:
    return " ".join(re.findall(r"[\w.%/+-]*\w[\w%]*|[^\w\s.,;:!?'\"()\[\]]", text.casefold()))
