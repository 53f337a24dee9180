"""Haystacks, and prompts with a needle in them: token ids, and where the needle's answer stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from prune.common.errors import RegrowthError, TextError, UsageError
from prune.instruments.needles import Needle
from prune.text.chats import Template
from prune.text.documents import read_documents
from prune.text.windows import POOL, bos_id, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TASK = "Read the text below. Then answer the question that stands after it, in the words of the text.\n\n"
_BEHIND = "\n\nQuestion: "
_FULL, _LEAST = 0.9, 0.5  # of a haystack's tokens: it ends at a sentence that does not fit, if it is so full
_MISFITS = 10  # sentences that do not fit, after which the smaller share will do
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Prompt:
    """What a model is given.

    Attributes:
        ids: its tokens.
        start, stop: where the needle's answer stands in them (end excluded); 0, 0 without a needle.
    """

    ids: tuple[int, ...]
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Trial:
    """One needle at one place of one haystack.

    Attributes:
        needle: its number in `NEEDLES`.
        length: most tokens of the prompt.
        depth: where the needle stands: 0 at the haystack's begin, 1 at its end.
    """

    needle: int
    length: int
    depth: float
    prompt: Prompt


class Prompter:
    """Turns questions into prompts: through the tokenizer's chat template, or plainly.

    Args:
        chat: use the chat template, if there is one. A template that can switch thinking off is told to.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool = True) -> None:
        self.tokenizer = tokenizer
        self._template = Template(tokenizer, remedy="ask without it") if chat and tokenizer.chat_template else None

    def ask(self, question: str, opening: str = "") -> Prompt:
        """A question, and how its answer begins, if that is given.

        Raises:
            TextError: the chat template refuses it.
        """
        return Prompt(tuple(self._encode(self._render(question, opening))[0]))

    def ask_about(self, haystack: Sequence[str], after: int, needle: Needle) -> Prompt:
        """A question about a text, in which the needle stands behind the first `after` sentences.

        Raises:
            TextError: the chat template refuses it.
            RegrowthError: the tokenizer does not tell which characters a token stands for.
        """
        text = " ".join([*haystack[:after], needle.text, *haystack[after:]])
        rendered = self._render(f"{_TASK}{text}{_BEHIND}{needle.question}", "")
        ids, places = self._encode(rendered)
        begin = rendered.index(needle.text) + needle.text.index(needle.answer)
        end = begin + len(needle.answer)
        inside = [token for token, (first, last) in enumerate(places) if first < end and last > begin]
        return Prompt(tuple(ids), inside[0], inside[-1] + 1)

    def _render(self, question: str, opening: str) -> str:
        if self._template is None:
            return f"{question}\nAnswer:" + (f" {opening}" if opening else "")
        return self._template.ask([{"role": "user", "content": question}]) + opening

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        try:
            coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        except NotImplementedError:
            raise RegrowthError(
                "this tokenizer does not tell which characters a token stands for, so no needle can be followed; "
                "give the model a tokenizer.json"
            ) from None
        ids, places = list(coded["input_ids"]), list(coded["offset_mapping"])
        head = None if self._template else bos_id(self.tokenizer)  # a chat template writes its own
        return (ids, places) if head is None else ([head, *ids], [(0, 0), *places])


def read_sentences(sources: Sequence[str], field: str, seed: int) -> list[list[str]]:
    """The sentences of each document of the sources, the documents in an order that the seed gives.

    Raises:
        TextError: a source is missing or empty.
    """
    documents = [document for source in sources for document in islice(read_documents(source, field=field), POOL)]
    order = np.random.default_rng(seed).permutation(len(documents))
    return [_SENTENCE_END.split(" ".join(documents[number].text.split())) for number in order]


def plan_trials(
    prompter: Prompter,
    needles: Sequence[tuple[int, Needle]],
    documents: Iterable[Sequence[str]],
    lengths: Sequence[int],
    depths: Sequence[float],
    *,
    option: str = "--lengths",
) -> list[Trial]:
    """A trial for each needle at each depth of each length: for each length one haystack, of documents of its own.

    All prompts of one length hold the same haystack, and the longest needle just fits.

    Args:
        needles: each with its number in `NEEDLES`.
        documents: sentences of each; taken in turn.
        option: by which the lengths were given, to name in an error.

    Raises:
        TextError: the documents are too short for the lengths.
        UsageError: a length is too short for a needle with its question.
    """
    left = iter(documents)
    trials = []
    for length in lengths:
        bare = max(len(prompter.ask_about([], 0, needle).ids) for _, needle in needles)
        if length < 2 * bare:
            raise UsageError(f"{option} {length}: needle and question take {bare} tokens; use {2 * bare} at least")
        sentences, sizes = _haystack(prompter, left, length - bare, option)
        before = np.cumsum([0, *sizes])
        for depth in depths:
            after = int(np.abs(before - depth * before[-1]).argmin())
            for number, needle in needles:
                trials.append(Trial(number, length, depth, prompter.ask_about(sentences, after, needle)))
    return trials


def _haystack(
    prompter: Prompter, documents: Iterable[Sequence[str]], tokens: int, option: str
) -> tuple[list[str], list[int]]:
    """Sentences of at most `tokens` tokens together and hardly fewer, and the tokens of each."""
    sentences, sizes, total, misfits = [], [], 0, 0
    for document in documents:
        for sentence in document:
            size = len(encode(prompter.tokenizer, f" {sentence}"))
            if total + size <= tokens:
                sentences.append(sentence)
                sizes.append(size)
                total += size
                continue
            misfits += 1
            if total >= (_FULL if misfits < _MISFITS else _LEAST) * tokens:
                return sentences, sizes
    raise TextError(f"the text is too short for a haystack of {tokens} tokens; give more text, or lower {option}")
