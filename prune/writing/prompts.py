"""What a model is given to write from: tokens, and the text that they are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from prune.text.chats import Messages, Template
from prune.text.windows import SHORTEST, bos_id, encode
from prune.writing.settings import OPENING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")
_BUFFER = 10_000  # prompts shuffled at a time


@dataclass(frozen=True)
class Prompt:
    """What the model answers: its token ids, BOS included, and the text they come from.

    Attributes:
        messages: of a chat, those before the answer; None if the prompt is no chat.
        longest: of a chat that is kept as one, tokens that it may have with its answer.
        source: the name of the file that it comes from, where rows tell it.
        kind: how it asks, where rows tell it.
    """

    ids: tuple[int, ...]
    text: str
    messages: Messages | None = None
    longest: int = 0
    source: str | None = None
    kind: str | None = None


def opening_prompt(tokenizer: PreTrainedTokenizerBase, document: str, tokens: int = OPENING) -> Prompt | None:
    """The first tokens of a document, for the model to go on from; no template. None if it has under 8."""
    ids = encode(tokenizer, document)
    if len(ids) < SHORTEST:
        return None
    bos, ids = bos_id(tokenizer), ids[:tokens]
    return Prompt((*([] if bos is None else [bos]), *ids), tokenizer.decode(ids))


def plain_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> Prompt:
    """A text as it stands, behind one BOS where the tokenizer has it.

    Some templates begin with BOS. It is not part of `text`: whoever reads that opens each document with one.
    """
    bos = bos_id(tokenizer)
    text = text.removeprefix("" if bos is None else str(tokenizer.bos_token))
    ids = encode(tokenizer, text)
    return Prompt((*ids,) if bos is None else (bos, *ids), text)


def asked_prompt(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: Messages, *, thinking: bool = False
) -> Prompt:
    """Messages that wait for an answer, in the template."""
    return plain_prompt(tokenizer, template.ask(messages, thinking=thinking))


def in_turns(streams: Sequence[Iterator[T]]) -> Iterator[T]:
    """One of each; where one has ended, the others go on."""
    ended = object()
    for together in zip_longest(*streams, fillvalue=ended):
        yield from (item for item in together if item is not ended)  # type: ignore[misc]


def shuffled(items: Iterator[T], seed: int | list[int]) -> Iterator[T]:
    """The items in an order given by the seed, through a buffer that holds 10,000 of them."""
    rng = np.random.default_rng(seed)
    while buffer := list(islice(items, _BUFFER)):
        for index in rng.permutation(len(buffer)):
            yield buffer[index]
