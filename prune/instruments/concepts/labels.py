"""The labels of occurrences: from a word's letters and its place in the sentence, and from a tagger and WordNet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

import numpy as np

from prune.instruments.concepts.alignment import ONE_WORD, Ids, LabelSet
from prune.instruments.concepts.occurrences import Sample
from prune.instruments.concepts.settings import Kind
from prune.instruments.concepts.tagging import Tag
from prune.instruments.concepts.words import Word

_PREFIXES = (
    "anti auto co con de dis em en ex fore il im in inter ir mid mis non over per post pre pro re semi sub super "
    "trans un under up"
)
_SUFFIXES = (
    "able age al ance ant ary ate ed ence ent er ers es est ful hood ian ible ic ical ing ings ion ions ise ish ism "
    "ist ists ity ive ize less ly ment ments ness or ors ous s ship tion tions ty ward wise"
)
_STEM = 3  # letters that stand before a suffix or behind a prefix at least
_GRAM = 3  # letters of an n-gram

Carried = list[Collection[str]]


def casing(word: str) -> str | None:
    """How a word is cased; None for small letters alone, the ordinary case, and for a script that has no case."""
    if any(map(str.isdigit, word)):
        return "with digits"
    if word == word.lower():
        return None
    if word[0].isupper() and not any(map(str.isupper, word[1:])):
        return "capitalised"
    return "capitals" if word.isupper() else "mixed case"


def prefixes(word: str) -> list[str]:
    """The English prefixes in our list that the word begins with, three letters left at least."""
    low = word.lower()
    return [
        each for each in _PREFIXES.split() if low.isalpha() and len(low) >= len(each) + _STEM and low.startswith(each)
    ]


def suffixes(word: str) -> list[str]:
    """The English suffixes in our list that the word ends with, three letters left at least."""
    low = word.lower()
    return [
        each for each in _SUFFIXES.split() if low.isalpha() and len(low) >= len(each) + _STEM and low.endswith(each)
    ]


@cache
def grams(word: str) -> frozenset[str]:
    """Three letters in a row, of what is left without the longest listed prefix and suffix: these are morphology."""
    stem = word.lower()
    stem = stem[max(map(len, prefixes(stem)), default=0) :]
    end = max(map(len, suffixes(stem)), default=0)
    stem = stem[: len(stem) - end]
    return frozenset(stem[i : i + _GRAM] for i in range(len(stem) - _GRAM + 1))


def number_units(names: Sequence[str]) -> Ids:
    """A number for each name, (N,), the same for the same name."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int32)


def word_units(sample: Sample) -> Ids:
    """The word of each occurrence as a number, (N,), whatever its case."""
    return number_units([occurrence.word.text.lower() for occurrence in sample.occurrences])


def label_sets(
    sample: Sample,
    kinds: Collection[Kind],
    words: Ids,
    tags: Sequence[Tag] | None,
    synonyms: Mapping[str, Sequence[str]] | None,
) -> list[LabelSet]:
    """All labels of the kinds asked for.

    Args:
        words: as `word_units` gives them.
        tags: of each occurrence; needed for the kinds syntactic and semantic.
        synonyms: a word -> its synonyms; needed for semantic, and else {}.
    """
    spelt = [occurrence.word for occurrence in sample.occurrences]
    sets: list[tuple[str, Kind, Carried, Ids]] = [
        (ONE_WORD, "lexical", [[word.text.lower()] for word in spelt], words),
        ("casing", "lexical", [_listed(casing(word.text)) for word in spelt], words),
        ("position", "lexical", [_positions(word) for word in spelt], words),
        ("n-gram", "lexical", [grams(word.text) for word in spelt], words),
        ("prefix", "morphological", [prefixes(word.text) for word in spelt], words),
        ("suffix", "morphological", [suffixes(word.text) for word in spelt], words),
    ]
    if tags is not None and synonyms is not None:
        lemmas = [tag.lemma for tag in tags]
        sets += [
            ("part of speech", "syntactic", [_listed(tag.part) for tag in tags], words),
            ("dependency", "syntactic", [_listed(tag.dependency) for tag in tags], words),
            ("entity", "semantic", [_listed(tag.entity) for tag in tags], words),
            ("synonyms", "semantic", synonym_labels(lemmas, synonyms), number_units(lemmas)),
        ]
    return [LabelSet.of(name, kind, carried, units) for name, kind, carried, units in sets if kind in kinds]


def _listed(label: str | None) -> list[str]:
    return [label] if label else []


def _positions(word: Word) -> list[str]:
    return [name for name, here in (("first in sentence", word.first), ("last in sentence", word.last)) if here]


def synonym_labels(lemmas: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> Carried:
    """For each lemma the words of whose synonym sets it is part: its own, and those that name it."""
    present = set(lemmas)
    heads: dict[str, set[str]] = {lemma: {lemma} for lemma in present if lemma in synonyms}
    for head, others in synonyms.items():
        for lemma in present.intersection(others):
            heads.setdefault(lemma, set()).add(head)
    return [frozenset(heads.get(lemma, ())) for lemma in lemmas]
