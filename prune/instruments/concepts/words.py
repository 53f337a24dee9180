"""Words of a text: where they stand, which sentence begins or ends with them, and the tokens that they are made of.

No package decides what a word is, so that all labels are of the same words whatever is installed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

# As in the Penn Treebank, a contraction is two words (do + n't, it + 's), and a mark of punctuation is one.
_PIECE = re.compile(
    r"(?:[^\W\d_]\.){2,}"  # initials, such as U.S.
    r"|[^\W\d_]+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|ll|d|m)\b"
    r"|\d+(?:[.,]\d+)+|[^\W_]+|[^\w\s]|_+",
    re.IGNORECASE,
)
_ENDS = frozenset(".!?…")
_CLOSES = frozenset("\"'”’»)]}")
_ABBREVIATED = frozenset(
    "mr mrs ms dr prof st vs no jr sr gen col lt capt inc ltd co corp fig vol approx etc".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Word:
    """A word or a mark of punctuation.

    Attributes:
        start, stop: its characters in the document, 0-based, end excluded.
        space: a blank follows.
        first, last: it is the first or the last word of its sentence, marks left out.
    """

    text: str
    start: int
    stop: int
    space: bool
    first: bool = False
    last: bool = False

    @property
    def is_mark(self) -> bool:
        """It has neither letter nor digit."""
        return not any(map(str.isalnum, self.text))


def split_words(text: str) -> list[Word]:
    """All words and marks of a document in their order.

    A sentence ends at `.`, `!`, `?` or `…` where no small letter follows, but not behind an initial or a common
    abbreviation; and at a blank line.
    """
    found = list(_PIECE.finditer(text))
    words = [Word(m[0], m.start(), m.end(), text[m.end() : m.end() + 1].isspace()) for m in found]
    begins = [0, *(i for i in range(1, len(words)) if _begins_sentence(text, words, i)), len(words)]
    for begin, end in pairwise(begins):
        real = [i for i in range(begin, end) if not words[i].is_mark]
        if real:
            words[real[0]] = replace(words[real[0]], first=True)
            words[real[-1]] = replace(words[real[-1]], last=True)
    return words


def _begins_sentence(text: str, words: Sequence[Word], number: int) -> bool:
    gap = text[words[number - 1].stop : words[number].start]
    if not gap:
        return False
    if gap.count("\n") > 1:
        return True
    if words[number].text[0].islower():
        return False
    end = number - 1
    while end > 0 and words[end].text in _CLOSES:
        end -= 1
    if words[end].text not in _ENDS:
        return False
    before = words[end - 1].text if end else ""
    initial = len(before) == 1 and before.isupper()
    return not (words[end].text == "." and (initial or before.lower() in _ABBREVIATED))


def align(words: Sequence[Word], text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int] | None]:
    """The tokens of each word: first and past the last, 0-based; None for a word that shares a token with another.

    Args:
        offsets: characters of each token in the document, rising; blanks at either end of a token are passed over.
    """
    begins, ends = [], []
    for begin, end in offsets:
        piece = text[begin:end]
        begins.append(begin + len(piece) - len(piece.lstrip()))
        ends.append(end - len(piece) + len(piece.rstrip()))
    spans: list[tuple[int, int] | None] = []
    first = 0
    for word in words:
        while first < len(ends) and ends[first] <= word.start:
            first += 1
        past = first
        while past < len(begins) and begins[past] < word.stop:
            past += 1
        whole = past > first and begins[first] == word.start and max(ends[first:past]) == word.stop
        spans.append((first, past) if whole else None)
    return spans
