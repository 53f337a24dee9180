"""Where a written text states its answer: after `the answer is`, in a box, after `####`. Pure text work."""

from __future__ import annotations

import re
from collections.abc import Iterator

_NEXT = re.compile(r"\n\s*(?:Question|Problem|Q)\s*\d*\s*:")  # the model goes on and asks itself
BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_STATED = re.compile(
    r"(?:\b(?:answer|result|solution)s?\b(?:\s+(?:choice|option)\b)?|\b(?:final|correct|right|best)\s+(?:option|choice|letter)s?\b)[*_\s]*"
    r"(?:(?:to|for|of)\s+(?:this|the)\s+(?:question|problem)[*_\s]*)?"
    r"(?:\s*(?:would|will|should|must)\s+be\b|\s*(?:is|was|are|equals)\b|\s*[:=]"
    r"|\s+[-\u2014]\s+(?=\(?(?-i:[A-Z])(?![\w'])))"  # before a letter; before a number it may be a minus sign
    r"\s*(?:(?:therefore|thus|then|clearly|simply|probably|likely|definitely|certainly|obviously)\b)?[\s:*_]*",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t>*]*#{4,}[ \t]*(?=[-+$(\\.\d]|[A-Za-z]\b)", re.MULTILINE)  # as keys of GSM8K end
_VERDICT = re.compile(
    r"(?:\b(?:option|choice|answer|letter)\s+\(?(?P<named>[A-Z])\)?|\((?P<round>[A-Z])\))[*_]*\s+"
    r"(?:is|must\s+be|would\s+be)\s+(?:the\s+)?(?:correct|right|best|answer)\b",
    re.IGNORECASE,
)
_ENDS = r"(?=[*_]*\s*(?:[.!;](?:\s|$)|$|\n|because\b|since\b|as\b))"
_BARE = re.compile(  # a letter alone, which must be a capital one and close what it says
    r"(?:(?:^|[.!?\n])\s*|\b(?:therefore|thus|so|hence)\b,?\s+)[*_]*(?P<right>(?-i:[A-Z]))[*_]*\s+is\s+(?:correct|"
    rf"the\s+(?:(?:correct|right|best)\s+)?(?:answer|option|choice)){_ENDS}"
    r"|\bI(?:'d|'ll|\s+would|\s+will)?\s+(?:choose|pick|select|go\s+with)\s+(?:(?:option|choice|answer|letter)\s+)?"
    rf"[*_]*\(?(?P<chosen>(?-i:[A-Z]))\)?{_ENDS}"
    rf"|(?:^|[.!?\n])\s*(?:it|that)(?:'s|\s+is)\s+(?:probably\s+)?[*_]*\(?(?P<it>(?-i:[A-Z]))\)?{_ENDS}",
    re.IGNORECASE,
)


def own_words(response: str) -> str:
    """The response without what follows once the model goes on and asks itself the next question; plain minus signs."""
    text = response.replace("\u2212", "-").replace("\u2013", "-").replace("\r\n", "\n").replace("\u00a0", " ")
    return _NEXT.split("\n" + text, maxsplit=1)[0].strip()


def statements(text: str) -> Iterator[str]:
    """What stands after each mark of an answer, to the end of its line or sentence, in the order of the text."""
    found: list[tuple[int, str]] = []
    for match in BOXED.finditer(text):
        found.append((match.start(), unboxed(text, match.end())))
    for pattern in (_STATED, _HASHES):
        for match in pattern.finditer(text):
            found.append((match.start(), _rest_of_sentence(text[match.end() :])))
    verdicts = [(match.start(), (match["named"] or match["round"]).upper()) for match in _VERDICT.finditer(text)]
    bare = (match for match in _BARE.finditer(text.replace("\u2019", "'")))
    verdicts += [(match.start(), match["right"] or match["chosen"] or match["it"]) for match in bare]
    if len({letter for _, letter in verdicts}) == 1:  # `A is correct, B is correct too` speaks of statements
        found += verdicts
    yield from (statement for _, statement in sorted(found, key=lambda item: item[0]))


def unboxed(text: str, start: int) -> str:
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
