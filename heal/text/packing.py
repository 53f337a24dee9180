"""Tokenised documents packed into rows of one length, so that no row is padding and no document sees another.

Positions restart at 0 with each document. transformers reads that (`masking_utils.find_packed_sequence_indices`)
where neither an attention mask nor a cache is given, and makes attention block-diagonal; no FlashAttention is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


IGNORED = -100  # the label that cross-entropy passes over, in torch and transformers alike


@dataclass(frozen=True)
class Row:
    """One packed row of T tokens.

    `tokens`, `positions` and `labels` are int32 arrays of shape (T,). `labels` follow transformers' convention
    (not shifted): a label is the token itself, or -100 where no token of the same document stands before it, or where
    the token bears no loss.
    """

    tokens: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    @property
    def targets(self) -> int:
        """How many tokens of the row are predicted."""
        return int((self.labels[1:] != IGNORED).sum())


class Packer:
    """Packs documents in their order into rows of exactly `length` tokens; what it holds can be stored and taken up.

    Each document becomes `bos + tokens + eos`. One that does not fit is cut at the row's end and goes on in the next
    row as a document of its own (with `bos`): it cannot see what the row before held.

    Args:
        length: tokens per row, at least 4.
        bos: id that opens each document, or None.
        eos: id that closes each document, or None.
        state: what `state()` of another packer of the same length, `bos` and `eos` gave.

    Raises:
        ValueError: `length` under 4.
    """

    def __init__(
        self, length: int, *, bos: int | None, eos: int | None, state: dict[str, list[Any]] | None = None
    ) -> None:
        if length < 4:
            raise ValueError(f"a row of {length} tokens cannot hold a document")
        self._length = length
        self._head = [] if bos is None else [bos]
        self._tail = [] if eos is None else [eos]
        held = state or {"pieces": [], "rest": []}
        self._pieces: list[list[int]] = list(held["pieces"])  # of the row that is being filled
        self._rest: list[int] = list(held["rest"])  # of the document that is being packed

    def add(self, document: Sequence[int]) -> None:
        """Take in token ids without BOS or EOS; an empty document is passed over. `take` must have given None."""
        self._rest = list(document) + self._tail if document else []

    def take(self) -> Row | None:
        """The next full row, or None when another document is needed for it."""
        while len(self._rest) > len(self._tail):  # an EOS alone is not worth a piece
            room = self._length - sum(map(len, self._pieces)) - len(self._head)
            if room < 2:  # no room for one prediction
                return self._row()
            self._pieces.append(self._head + self._rest[:room])
            self._rest = self._rest[room:]
        return None

    def last(self, *, partly: bool = False) -> Row | None:
        """When no document is left: the row being filled, if it is full or `partly` filled rows are wanted as well.

        What is missing is filled up with tokens that are not predicted.
        """
        full = sum(map(len, self._pieces)) == self._length
        return self._row() if self._pieces and (full or partly) else None

    def state(self) -> dict[str, list[Any]]:
        """The row and the document that stand unfinished, as JSON."""
        return {"pieces": list(self._pieces), "rest": list(self._rest)}

    def _row(self) -> Row:
        pieces, self._pieces = self._pieces, []
        return _row(pieces, self._length)


class ChatPacker:
    """Packs chats into rows of exactly `length` tokens. A chat stands in one row, from its beginning.

    So that no answer is learnt without its question, a chat that does not fit into what is left of a row is begun
    there, and stands whole in the next one. One longer than a row is cut at the row's end. One whose first `length`
    tokens bear no loss is passed over. Chats get no BOS or EOS: their template has written its own.

    Args:
        length: tokens per row, at least 4.
        once: leave what is left of a row empty, so that each token is read once.
        state: what `state()` of another such packer of the same length gave.

    Attributes:
        counts: of the chats `read`, how many were `cut`, and how many `passed_over`.
    """

    def __init__(self, length: int, *, once: bool = False, state: dict[str, Any] | None = None) -> None:
        if length < 4:
            raise ValueError(f"a row of {length} tokens cannot hold a chat")
        held = state or {"pieces": [], "rest": None, "counts": {"read": 0, "cut": 0, "passed_over": 0}}
        self._length, self._once = length, once
        self._pieces: list[tuple[list[int], list[bool]]] = [(ids, bears) for ids, bears in held["pieces"]]
        self._rest: tuple[list[int], list[bool]] | None = held["rest"]
        self.counts: dict[str, int] = dict(held["counts"])

    def add(self, ids: list[int], bears: list[bool]) -> None:
        """Take in a chat: its tokens, and which of them bear loss. `take` must have given None."""
        self.counts["read"] += 1
        kept = bears[: self._length]
        if not any(kept[1:]):  # the first token of a row is not predicted
            self.counts["passed_over"] += 1
            return
        self.counts["cut"] += len(ids) > self._length
        self._rest = ids[: self._length], kept

    def take(self) -> Row | None:
        """The next full row, or None when another chat is needed for it."""
        room = self._length - sum(len(ids) for ids, _ in self._pieces)
        if room < 2:
            return self._row()
        if self._rest is None:
            return None
        ids, bears = self._rest
        if len(ids) <= room:
            self._pieces.append(self._rest)
            self._rest = None
            return self.take()
        if not self._once:
            self._pieces.append((ids[:room], bears[:room]))
        return self._row()

    def last(self, *, partly: bool = False) -> Row | None:
        """When no chat is left: see `Packer.last`."""
        full = sum(len(ids) for ids, _ in self._pieces) == self._length
        return self._row() if self._pieces and (full or partly) else None

    def state(self) -> dict[str, Any]:
        """The row and the chat that stand unfinished, as JSON."""
        return {"pieces": list(self._pieces), "rest": self._rest, "counts": dict(self.counts)}

    def _row(self) -> Row:
        pieces, self._pieces = self._pieces, []
        return _row([ids for ids, _ in pieces], self._length, [bears for _, bears in pieces])


def pack(
    documents: Iterable[Sequence[int]], length: int, *, bos: int | None, eos: int | None, keep_last: bool = False
) -> Iterator[Row]:
    """Pack documents into rows, see `Packer`; with `keep_last`, the last row too where it is not full."""
    packer = Packer(length, bos=bos, eos=eos)
    for document in documents:
        packer.add(document)
        while (row := packer.take()) is not None:
            yield row
    if (row := packer.last(partly=keep_last)) is not None:
        yield row


def _row(pieces: list[list[int]], length: int, bears: list[list[bool]] | None = None) -> Row:
    """`bears`: which tokens of each piece bear loss; all if None."""
    tokens = np.concatenate([np.asarray(piece, dtype=np.int32) for piece in pieces])
    positions = np.concatenate([np.arange(len(piece), dtype=np.int32) for piece in pieces])
    labels = np.where(positions == 0, IGNORED, tokens).astype(np.int32)
    if bears is not None:
        labels[~np.concatenate([np.asarray(piece, dtype=bool) for piece in bears])] = IGNORED
    short = length - len(tokens)
    if short:  # filler goes on with the last document's positions: causal attention keeps it from all before it
        tokens = np.concatenate([tokens, np.repeat(tokens[-1:], short)])
        positions = np.concatenate([positions, positions[-1] + 1 + np.arange(short, dtype=np.int32)])
        labels = np.concatenate([labels, np.full(short, IGNORED, dtype=np.int32)])
    return Row(tokens, positions, labels)


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """B rows of T tokens -> `input_ids`, `position_ids`, `labels`, each (B, T); no mask: positions tell documents."""
    import torch

    return {
        "input_ids": torch.from_numpy(np.stack([row.tokens for row in rows])).long(),
        "position_ids": torch.from_numpy(np.stack([row.positions for row in rows])).long(),
        "labels": torch.from_numpy(np.stack([row.labels for row in rows])).long(),
    }


def collate_for_loss(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """What `collate` gives, and what a loss needs to know of the flattened rows without asking a device for it.

    `places`: the positions (N,) of B * T that predict a label. `bounds`: (documents + 1,) int32, where each document
    begins, and B * T.
    """
    import torch

    positions, predicted = np.stack([row.positions for row in rows]), np.stack([row.labels != IGNORED for row in rows])
    predicted[:, 0] = False  # nothing stands before it
    bounds = np.append(np.flatnonzero(positions == 0), positions.size).astype(np.int32)
    places = torch.from_numpy(np.flatnonzero(predicted) - 1)
    return {**collate(rows), "places": places, "bounds": torch.from_numpy(bounds)}


def in_batches(rows: Sequence[Row], size: int) -> list[dict[str, torch.Tensor]]:
    """What `collate` gives of `size` rows at a time."""
    return [collate(rows[start : start + size]) for start in range(0, len(rows), size)]


def count_predicted(labels: torch.Tensor) -> torch.Tensor:
    """How many tokens (B, T) labels predict, where they stand; a 0-dimensional tensor."""
    return (labels[:, 1:] != IGNORED).sum()
