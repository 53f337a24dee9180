"""Text for healing: a held-out part that never moves, and packed rows to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from heal.packing import Row, pack
from prune.errors import TextError
from prune.text import SHORTEST, Document, bos_id, encode, read_documents, text_identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT_SHARE = 50  # one document in so many is held out
_BUFFER = 10_000  # documents shuffled at a time, so that a stream can be shuffled too


@dataclass(frozen=True)
class TextSource:
    """Where the text comes from. Without `held_out`, one document in fifty of `source` is held out by its hash."""

    source: str
    field: str = "text"
    held_out: str | None = None
    held_out_tokens: int = 16_384

    def identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {"text": text_identity(self.source, self.field)}
        if self.held_out is not None:
            found["held_out"] = text_identity(self.held_out, self.field)
        return found


@dataclass(frozen=True)
class HeldOut:
    """Packed rows to measure on, and the hashes of the documents in them, which are never trained on."""

    rows: list[Row]
    digests: frozenset[bytes]


def hold_out(text: TextSource, tokenizer: PreTrainedTokenizerBase, *, length: int) -> HeldOut:
    """Rows to measure on: the first held-out documents in source order, whatever the budget and the seed.

    Only text is predicted: documents get a BOS (where the tokenizer has one) and no EOS, so that the loss tells
    nothing about learning to end. It depends on `length`, which bounds what a prediction sees.

    Raises:
        TextError: under 64 tokens of held-out text.
    """
    documents = read_documents(text.held_out or text.source, field=text.field)
    if text.held_out is None:
        documents = (document for document in documents if is_held_out(document.text))
    ids: list[list[int]] = []
    digests = set()
    count = 0
    for document in documents:
        if count >= text.held_out_tokens:
            break
        found = encode(tokenizer, document.text)[: text.held_out_tokens - count]
        if len(found) >= SHORTEST:
            ids.append(found)
            digests.add(_digest(document.text))
            count += len(found)
    if count < 64:
        where = text.held_out or f"the held-out part of {text.source} (one document in {HELD_OUT_SHARE})"
        raise TextError(f"{where} has only {count} tokens; name other text with --held-out")
    rows = list(pack(ids, length, bos=bos_id(tokenizer), eos=None, keep_last=True))
    return HeldOut(rows, frozenset(digests))


def training_rows(
    text: TextSource, tokenizer: PreTrainedTokenizerBase, held_out: HeldOut, *, rows: int, length: int, seed: int
) -> list[Row]:
    """The first `rows` packed rows of the source's documents, shuffled by `seed`, without those held out.

    Raises:
        TextError: the source ends before.
    """
    rng = np.random.default_rng(seed)
    share = text.held_out is None  # then the whole share is kept apart, measured or not: a larger one stays clean
    ids = (
        found
        for document in _shuffled(read_documents(text.source, field=text.field), rng)
        if not (share and is_held_out(document.text)) and _digest(document.text) not in held_out.digests
        if len(found := encode(tokenizer, document.text)) >= SHORTEST
    )
    packed = list(islice(pack(ids, length, bos=bos_id(tokenizer), eos=tokenizer.eos_token_id), rows))
    if len(packed) < rows:
        raise TextError(
            f"{text.source} ends after {len(packed) * length} of the {rows * length} tokens asked for; "
            f"add text, or ask for --tokens {len(packed) * length} or fewer"
        )
    return packed


def is_held_out(text: str) -> bool:
    """Whether a document belongs to the held-out part: a matter of its text alone, so it never moves."""
    return int.from_bytes(_digest(text)[:8]) % HELD_OUT_SHARE == 0


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).digest()


def _shuffled(documents: Iterable[Document], rng: np.random.Generator) -> Iterator[Document]:
    """Shuffle through a buffer: all of a source smaller than it, and a stream without reading it to its end."""
    buffer: list[Document] = []
    for document in documents:
        if len(buffer) < _BUFFER:
            buffer.append(document)
            continue
        place = int(rng.integers(_BUFFER))
        buffer[place], document = document, buffer[place]
        yield document
    for place in rng.permutation(len(buffer)):
        yield buffer[place]
