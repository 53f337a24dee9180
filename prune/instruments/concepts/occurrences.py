"""Samples of words in context: windows of text, and the occurrences of words that are kept in them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from prune.common.errors import RegrowthError, TextError
from prune.instruments.concepts.settings import PER_CLUSTER, ConceptsSettings
from prune.instruments.concepts.words import Word, align, split_words
from prune.text.documents import read_documents
from prune.text.windows import POOL, Window, draw_held_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Occurrence:
    """A word at its place.

    Attributes:
        window: its window in the sample, 0-based.
        place: its place among the window's words, 0-based.
        first, past: its tokens in the window, 0-based, end excluded.
        word: the word itself.
    """

    window: int
    place: int
    first: int
    past: int
    word: Word


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        windows: token ids of each.
        words: all words and marks of each window, as far as they stand in it whole.
        occurrences: the occurrences that are kept, in the order of the text.
        read: words that were read, marks left out.
        unaligned: of these, words that share a token with another.
    """

    windows: list[list[int]]
    words: list[list[Word]]
    occurrences: list[Occurrence]
    read: int
    unaligned: int

    @property
    def types(self) -> int:
        """Distinct words, as written, among the occurrences."""
        return len({occurrence.word.text for occurrence in self.occurrences})


@dataclass(frozen=True)
class _Read:
    """A document's words, the tokens of each, and each token's characters."""

    words: list[Word]
    spans: list[tuple[int, int] | None]
    offsets: Sequence[tuple[int, int]]

    def inside(self, start: int, stop: int) -> range:
        """The words that stand whole among the tokens `start .. stop - 1`."""
        begin, end = self.offsets[start][0], self.offsets[stop - 1][1]
        first = bisect_left(self.words, begin, key=lambda word: word.start)
        past = bisect_right(self.words, end, key=lambda word: word.stop)
        return range(first, max(first, past))


def draw_word_samples(
    sources: Sequence[str], tokenizer: PreTrainedTokenizerBase, settings: ConceptsSettings
) -> list[Sample]:
    """Draw `reseeds` samples, no two of them of the same stretch of text.

    Raises:
        TextError: a source is missing, empty, or too short for the clusters asked.
        RegrowthError: the tokenizer cannot tell which characters a token stands for.
    """
    _check_offsets(tokenizer)
    wanted = settings.reseeds * settings.tokens
    windows, _ = draw_held_out(
        sources, tokenizer, tokens=wanted, length=settings.length, seed=settings.seed, field=settings.field
    )
    texts = [
        [document.text for document in islice(read_documents(source, field=settings.field), POOL)] for source in sources
    ]

    @cache
    def read(source: int, document: int) -> _Read:
        text = texts[source][document]
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        words, offsets = split_words(text), coded["offset_mapping"]
        return _Read(words, align(words, text, offsets), offsets)

    samples = []
    for number, part in enumerate(_dealt(windows, settings.reseeds)):
        draw = np.random.default_rng([settings.seed, number])
        samples.append(_sample(part, read, settings, draw))
    _check_enough(samples, settings)
    return samples


def _dealt(windows: Sequence[Window], samples: int) -> list[list[Window]]:
    """The windows of each sample. Each source deals its own in turn, so that every sample has equal shares of all."""
    dealt: list[list[Window]] = [[] for _ in range(samples)]
    given: Counter[int] = Counter()
    for window in windows:
        dealt[given[window.source] % samples].append(window)
        given[window.source] += 1
    return dealt


def _sample(
    windows: Sequence[Window], read: Callable[[int, int], _Read], settings: ConceptsSettings, draw: np.random.Generator
) -> Sample:
    contexts: list[list[Word]] = []
    by_type: dict[str, list[Occurrence]] = {}
    unaligned = 0
    for number, window in enumerate(windows):
        document = read(window.source, window.document)
        ahead = len(window.ids) - (window.stop - window.start)  # BOS, or nothing
        inside = document.inside(window.start, window.stop)
        contexts.append([document.words[i] for i in inside])
        for place, i in enumerate(inside):
            word, span = document.words[i], document.spans[i]
            if word.is_mark:
                continue
            if span is None:
                unaligned += 1
                continue
            first = span[0] - window.start + ahead
            if first:  # the first token of a row is no ordinary one: attention rests there
                past = first + span[1] - span[0]
                by_type.setdefault(word.text, []).append(Occurrence(number, place, first, past, word))
    words = sum(not word.is_mark for context in contexts for word in context)
    kept: list[Occurrence] = []
    for occurrences in by_type.values():
        if len(occurrences) > settings.max_occurrences:
            places = np.sort(draw.choice(len(occurrences), settings.max_occurrences, replace=False))
            kept += [occurrences[place] for place in places]
        elif len(occurrences) >= settings.min_occurrences:
            kept += occurrences
    kept.sort(key=lambda occurrence: (occurrence.window, occurrence.place))
    return Sample([window.ids for window in windows], contexts, kept, words, unaligned)


def _check_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise RegrowthError(
            "this tokenizer does not tell which characters a token stands for, so words cannot be aligned with tokens; "
            "give the model a tokenizer.json"
        )


def _check_enough(samples: Sequence[Sample], settings: ConceptsSettings) -> None:
    for sample in samples:
        kept, wanted = len(sample.occurrences), PER_CLUSTER * settings.clusters
        if kept < wanted or sample.types < settings.clusters:
            raise TextError(
                f"--clusters {settings.clusters}: a sample of the text keeps {kept:,} occurrences of {sample.types:,} "
                f"words, and {wanted:,} of {settings.clusters:,} are needed at least; give more text with --text, "
                "more --tokens, or fewer --clusters"
            )
        if kept < settings.ward:
            raise TextError(f"--ward {settings.ward}: a sample keeps {kept:,} occurrences; use fewer, or more --tokens")
