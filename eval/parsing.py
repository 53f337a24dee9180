"""What a written answer says: a letter, an option or a number, or nothing that can be told. Pure text work.

Two kinds of evidence count, the stronger first: a statement (`The answer is B`, `\\boxed{7}`, `#### 18`), of which the
last that decides anything counts, for it is where a chain of thought arrives; and, without any, a text that is an
answer and nothing else. What names two answers at once names none: a parser that picks one would turn a model's
confusion into accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from eval.values import is_value_alone, numbers, two_numbers, value_of

_NEXT = re.compile(r"\n\s*(?:Question|Problem|Q)\s*\d*\s*:")  # the model goes on and asks itself
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_STATED = re.compile(
    r"(?:\b(?:final|correct|right|best|my)\s+)*"
    r"\b(?:answer|option|choice|solution|result)s?\b[*_\s]*"
    r"(?:(?:to|for|of)\s+(?:this|the)\s+(?:question|problem)[*_\s]*)?"
    r"(?:\s*(?:would|will|should|must)\s+be\b|\s*(?:is|was|are|equals)\b|\s*[:=])"
    r"\s*(?:therefore\b|thus\b|then\b|clearly\b|simply\b)?[\s:*_]*",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t>*]*#{2,}[ \t]+(?=[-$(\\\d.A-Za-z])", re.MULTILINE)
_VERDICT = re.compile(
    r"(?:\b(?:option|choice|answer|letter)\s+\(?(?P<named>[A-Z])\)?|\((?P<round>[A-Z])\))[*_]*\s+"
    r"(?:is|must\s+be|would\s+be)\s+(?:the\s+)?(?:most\s+)?(?:correct|right|true|best|answer|likely)\b",
    re.IGNORECASE,
)
_NO = re.compile(r"^\W*(?:not|none|neither|unknown|unclear|incorrect|wrong|n't|either|one\s+of)\b", re.IGNORECASE)
_DENIES = re.compile(r"\b(?:not|never|wrong|incorrect|false|cannot|neither|nor)\b|n't\b", re.IGNORECASE)
_ENOUGH_WORDS = 3
_CONCLUDES = re.compile(r"^\W*(?:so|thus|therefore|hence|finally|in\s+total|altogether|consequently)\b", re.IGNORECASE)


def parse_letter(response: str, choices: Sequence[str]) -> int | None:
    """The 0-based index of the option that a response chooses, by its letter or its text; None where that is open.

    Args:
        response: what the model wrote after the options (letters A, B, ... in their order) had been shown.
        choices: the options' texts.
    """
    text = _own_words(response)
    for statement in reversed(list(_statements(text))):
        found = _option_of(statement, choices)
        if found is not None:
            return found
        if _names_several(statement, len(choices)):
            return None
    return _bare_option(text, choices)


def parse_value(response: str) -> Fraction | None:
    """The number that a response arrives at, exactly; None where it arrives at none, or at two.

    Units, currency and percent signs fall away (`25 %` is 25), and `1/2`, `0.5`, `\\frac{1}{2}` are one number.
    """
    text = _own_words(response)
    for statement in reversed(list(_statements(text))):
        if _NO.match(statement):
            continue
        if two_numbers(statement):
            return None
        value = value_of(statement)
        if value is not None:
            return value
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    alone = {value_of(line) for line in {*lines[:1], *lines[-1:]} if is_value_alone(line) and not two_numbers(line)}
    if alone:
        return alone.pop() if len(alone) == 1 else None
    return _conclusion(lines[-1]) if lines else None


def _conclusion(line: str) -> Fraction | None:
    """The number of a last sentence such as `So there are 12 left.`; none of one that breaks off or says it again."""
    *before, last = re.split(r"(?<=[.!])\s+(?=[A-Z\d])", line)
    if not _CONCLUDES.match(last) or not re.search(r"[.!]\W*$", last) or last in before:
        return None
    return value_of(last) if "=" in last or len(list(numbers(last))) == 1 else None


def _own_words(response: str) -> str:
    text = response.replace("\u2212", "-").replace("\u2013", "-").replace("\r\n", "\n").replace("\u00a0", " ")
    return _NEXT.split("\n" + text, maxsplit=1)[0].strip()


def _statements(text: str) -> Iterator[str]:
    """What stands after each mark of an answer, to the end of its line or sentence, in the order of the text."""
    found: list[tuple[int, str]] = []
    for match in _BOXED.finditer(text):
        found.append((match.start(), _braces(text, match.end())))
    for pattern in (_STATED, _HASHES):
        for match in pattern.finditer(text):
            found.append((match.start(), _rest_of_sentence(text[match.end() :])))
    for match in _VERDICT.finditer(text):
        found.append((match.start(), (match["named"] or match["round"]).upper()))
    yield from (statement for _, statement in sorted(found, key=lambda item: item[0]))


def _braces(text: str, start: int) -> str:
    """The content of the braces that open at `start`, or what there is of it."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place]
    return text[start + 1 :]


def _rest_of_sentence(text: str) -> str:
    line = text.lstrip(" \t\n*_").split("\n", 1)[0]  # the answer may stand on the next line
    return re.split(r"(?<=[a-z0-9)\]*%])[.!?](?:\s+(?=[A-Z(])|\s*$)", line, maxsplit=1)[0].strip()


# ---- letters and options


def _option_of(statement: str, choices: Sequence[str]) -> int | None:
    """The one option that a short statement names; None for none, for two, and for a letter beside another's text."""
    statement = _plain_marks(statement)
    if not statement or _NO.match(statement):
        return None
    by_letter, rest = _leading_letter(statement, len(choices))
    by_text = _option_in(rest if by_letter is not None else statement, choices)
    if by_letter is None:
        return by_text
    if _names_several(statement, len(choices)):
        return None
    whole = _option_in(statement, choices, exactly=True)  # an option that itself begins like a letter: "A fever"
    if whole is not None and whole != by_letter:
        return whole
    exact = _option_in(rest, choices, exactly=True)
    return None if exact is not None and exact != by_letter else by_letter


def _leading_letter(text: str, count: int) -> tuple[int | None, str]:
    """A label at the start of a text (`(B)`, `B.`, `b)`, `option B`, a `B` alone), and what follows it."""
    match = re.match(
        r"(?:(?:option|choice|letter|answer)\s+)?(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?=[.):,;\]]|$)|([A-Z])(?=\s))",
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


def _option_in(text: str, choices: Sequence[str], *, exactly: bool = False) -> int | None:
    """The option whose words stand in a text (or are all of it); the longest one where options overlap."""
    words = _words(text)
    found: list[tuple[int, int]] = []
    for index, choice in enumerate(choices):
        wanted = _words(choice)
        if not wanted:
            continue
        if words == wanted or (not exactly and len(wanted) > 1 and f" {wanted} " in f" {words} "):
            found.append((len(wanted), index))
    if not found:
        return None
    longest = max(length for length, _ in found)
    best = [index for length, index in found if length == longest]
    inside = all(_words(choices[index]) in _words(choices[best[0]]) for _, index in found)
    return best[0] if len(best) == 1 and inside else None


def _names_several(statement: str, count: int) -> bool:
    """Whether labels are strung together: `A or B`, `(A) and (C)`, `A, B`, `B/C`."""
    last = chr(ord("A") + count - 1)
    label = rf"\(?[A-{last}]\)?"
    match = re.match(rf"\W*(?:both\s+)?({label})\s*(?:,|/|&|or|and)\s*(?:option\s+)?({label})(?![\w'])", statement)
    return match is not None and match[1].strip("()") != match[2].strip("()")


def _bare_option(text: str, choices: Sequence[str]) -> int | None:
    """Without a statement: labels that open lines, if they agree, or a text that is one option and nothing else."""
    lines = [_plain_marks(line) for line in text.split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        return None
    if len(lines) == 1 or _option_in(lines[0], choices, exactly=True) is not None:
        exact = _option_in(lines[0], choices, exactly=True)
        if exact is not None:
            return exact
    labelled = [line for line in lines if _is_label(line, len(choices))]
    named = {_option_of(line, choices) for line in labelled}
    if len(named) == 1:
        return named.pop()
    if named:
        return None
    last = lines[-1]
    if match := re.search(
        r"\b(?:so|thus|therefore|hence)\b[^.]*?\b(?:option\s+)?\(?([A-Z])\)?\.?$", last, re.IGNORECASE
    ):
        return _option_of(match[1], choices) if match[1].isupper() else None
    return _option_in(last, choices, exactly=True) if len(lines) > 1 else _option_opening(last, choices)


def _option_opening(sentence: str, choices: Sequence[str]) -> int | None:
    """The option whose words, three or more, open a text of one sentence that does not deny it."""
    if _DENIES.search(sentence) or re.search(r"[.!?]\s", sentence):
        return None
    found = [i for i, choice in enumerate(choices) if f"{_words(sentence)} ".startswith(f"{_words(choice)} ")]
    found = [i for i in found if len(_words(choices[i]).split()) >= _ENOUGH_WORDS]
    return found[0] if len(found) == 1 else None


def _is_label(line: str, count: int) -> bool:
    last = chr(ord("A") + count - 1)
    label = rf"\(?[A-{last}][).:\]]|\(?[a-{last.lower()}]\)|[A-{last}](?:$|\s*[,;-])|[a-{last.lower()}]$"
    return re.match(rf"(?:(?:[Oo]ption|[Cc]hoice)\s+)?(?:{label})", line) is not None


def _plain_marks(text: str) -> str:
    """Without emphasis, quotes, TeX wrappers and a trailing full stop."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", text)
    if match := _BOXED.search(text):
        text = _braces(text, match.end())
    return re.sub(r"[*_`\"\u201c\u201d]+|^[\s>$#-]+|\$+\s*$", "", text).strip().rstrip(".").strip()


def _words(text: str) -> str:
    return " ".join(re.findall(r"[\w.%/+-]*\w[\w%]*|[^\w\s.,;:!?'\"()\[\]]", text.casefold()))
