"""Tokenised documents packed into rows of one length, so that no row is padding and no document sees another.

Positions restart at 0 with each document. transformers reads that (`masking_utils.find_packed_sequence_indices`)
where neither an attention mask nor a cache is given, and makes attention block-diagonal; no FlashAttention is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -100  # the label that cross-entropy passes over, in torch and transformers alike


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens.

    `tokens`, `positions` and `labels` are int32 arrays of shape (T,). `labels` follow transformers' convention
    (not shifted): a label is the token itself, or -100 where no token of the same document stands before it.
    """

    tokens: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    @property
    def targets(self) -> int:
        """How many tokens of the row are predicted."""
        return int((self.labels[1:] != IGNORED).sum())


def pack(
    documents: Iterable[Sequence[int]], length: int, *, bos: int | None, eos: int | None, keep_last: bool = False
) -> Iterator[Row]:
    """Pack documents in their order into rows of exactly `length` tokens.

    Each document becomes `bos + tokens + eos`. One that does not fit is cut at the row's end and goes on in the next
    row as a document of its own (with `bos`): it cannot see what the row before held.

    Args:
        documents: token ids without BOS or EOS; empty ones are passed over.
        length: tokens per row, at least 4.
        bos: id that opens each document, or None.
        eos: id that closes each document, or None.
        keep_last: also yield the last row where it is not full, filled up with tokens that are not predicted.

    Raises:
        ValueError: `length` under 4.
    """
    if length < 4:
        raise ValueError(f"a row of {length} tokens cannot hold a document")
    head = [] if bos is None else [bos]
    tail = [] if eos is None else [eos]
    pieces: list[list[int]] = []
    used = 0
    for document in documents:
        rest = list(document) + tail if document else []
        while len(rest) > (1 if tail else 0):  # an EOS alone is not worth a piece
            if length - used < len(head) + 2:  # no room for one prediction
                yield _row(pieces, length)
                pieces, used = [], 0
            piece = head + rest[: length - used - len(head)]
            rest = rest[len(piece) - len(head) :]
            pieces.append(piece)
            used += len(piece)
    if pieces and (keep_last or used == length):
        yield _row(pieces, length)


def _row(pieces: list[list[int]], length: int) -> Row:
    tokens = np.concatenate([np.asarray(piece, dtype=np.int32) for piece in pieces])
    positions = np.concatenate([np.arange(len(piece), dtype=np.int32) for piece in pieces])
    labels = np.where(positions == 0, IGNORED, tokens).astype(np.int32)
    short = length - len(tokens)
    if short:  # filler goes on with the last document's positions: causal attention keeps it from all before it
        tokens = np.concatenate([tokens, np.repeat(tokens[-1:], short)])
        positions = np.concatenate([positions, positions[-1] + 1 + np.arange(short, dtype=np.int32)])
        labels = np.concatenate([labels, np.full(short, IGNORED, dtype=np.int32)])
    return Row(tokens, positions, labels)
