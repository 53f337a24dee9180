"""The pool: documents drawn from text by a seed, and what of each is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from heal.ranking.rows import PoolDocument
from heal.ranking.settings import RankSettings
from heal.text.packing import IGNORED, Row
from prune.common.errors import TextError
from prune.common.files.provenance import digest
from prune.text.documents import SHORTEST, read_documents
from prune.text.windows import POOL, bos_id, encode
from prune.writing.prompts import in_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALSO = ("source", "topic", "kind")


@dataclass(frozen=True)
class Pool:
    """D documents in the order that the seed drew them.

    Attributes:
        documents: D of them.
        tokens: of the whole text of each, (D,).
        rows: what is read of each: BOS where the tokenizer has one, and the first tokens; all but the first bear loss.
        read: the same as text, (D,).
    """

    documents: tuple[PoolDocument, ...]
    tokens: tuple[int, ...]
    rows: tuple[Row, ...]
    read: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        """The whole texts."""
        return [document.text for document in self.documents]

    @property
    def sha256(self) -> str:
        """Hash over the documents in their order, with what is read of them."""
        return digest(
            [[d.digest, *d.bin, row.tokens.tolist()] for d, row in zip(self.documents, self.rows, strict=True)]
        )


def read_pool(settings: RankSettings, tokenizer: PreTrainedTokenizerBase) -> Pool:
    """Draw the pool: the sources in turns, each in an order that follows from the seed.

    The first 20,000 documents of a source are drawn from. Those under 8 tokens are passed over. A text that stands
    there twice may be drawn twice.

    Raises:
        TextError: a source is missing, holds chats, or has no document of 8 tokens.
    """
    turns = [_drawn(source, settings, index) for index, source in enumerate(settings.text)]
    documents: list[PoolDocument] = []
    tokens: list[int] = []
    rows: list[Row] = []
    read: list[str] = []
    bos, total = bos_id(tokenizer), 0
    for document in in_turns(turns):
        if len(documents) == settings.documents or total >= (settings.pool_tokens or float("inf")):
            break
        ids = encode(tokenizer, document.text)
        if len(ids) < SHORTEST:
            continue
        documents.append(document)
        tokens.append(len(ids))
        total += len(ids)
        rows.append(reading([] if bos is None else [bos], ids, settings.length))
        read.append(document.text if len(ids) <= settings.length else tokenizer.decode(ids[: settings.length]))
    if len(documents) < 2:
        raise TextError(
            f"{' and '.join(settings.text)}: {len(documents) or 'no'} document of {SHORTEST} tokens or more is nothing "
            "to rank; give more text with --text"
        )
    return Pool(tuple(documents), tuple(tokens), tuple(rows), tuple(read))


def reading(before: Sequence[int], bearing: Sequence[int], length: int) -> Row:
    """One row of at most `length` tokens: `bearing`, which bear loss, behind `before`, which do not.

    Where it is too long, `bearing` is cut at its end to half the row at least, and `before` at its beginning.
    """
    kept = list(bearing[: max(length - len(before), length // 2)])
    head = list(before)[-(length - len(kept)) :] if length > len(kept) else []
    tokens = np.array([*head, *kept], dtype=np.int32)
    labels = tokens.copy()
    labels[: max(1, len(head))] = IGNORED
    return Row(tokens, np.arange(len(tokens), dtype=np.int32), labels)


def _drawn(source: str, settings: RankSettings, index: int) -> Iterator[PoolDocument]:
    documents = list(islice(read_documents(source, field=settings.field, also=_ALSO), POOL))
    for number in np.random.default_rng([settings.seed, index]).permutation(len(documents)):
        document = documents[number]
        name = document.place.rpartition(":")[0]
        also = document.also
        yield PoolDocument(document.text, also.get("source") or name, also.get("topic", ""), also.get("kind", ""))
