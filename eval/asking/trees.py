"""Requests packed into rows of tokens, so that what requests share is read once. Pure arithmetic.

A row is a forest: each token follows its parent, and reads nothing but its parent, its parent's parent and so on.
The context of a question stands there once, with the choices as its branches; questions under one few-shot prompt are
branches of that prompt. A row without branches is an ordinary sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_ROW_TOKENS = 128  # of one row of a batch
_LEAST_TOKENS = 256
_OVER_SHARED = 4  # a row that grows to so many times what its contexts share reads that a third too often, at most


@dataclass(frozen=True)
class Asked:
    """One request: `tokens` are read, and their last `len(answer)` positions predict `answer`, token by token."""

    tokens: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def context(self) -> tuple[int, ...]:
        """What is read before the first answer token is predicted."""
        return self.tokens[: len(self.tokens) - len(self.answer) + 1]


@dataclass(frozen=True)
class TokenRow:
    """T tokens to read at once.

    tokens, depth, parent: (T,) int64. depth: 0-based place in its own sequence; parent: its place in the row, -1 for a
    first token, always below the token's own. asked: which requests are answered here. places: for each of them,
    (len(answer),) int64, the places in the row whose logits predict its answer.
    """

    tokens: np.ndarray
    depth: np.ndarray
    parent: np.ndarray
    asked: tuple[int, ...]
    places: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def sees(self) -> np.ndarray:
        """(T, T) bool: whether the token of a row reads that of a column, itself included."""
        sees = np.eye(len(self), dtype=bool)
        for index, parent in enumerate(self.parent):
            if parent >= 0:
                sees[index] |= sees[parent]
        return sees


def share_requests(requests: Sequence[Asked], rank: int, world: int) -> np.ndarray:
    """(N,) bool: which requests are those of one of several processes. Those of one context stay together.

    Each context goes to the process that has the fewest tokens so far, so that all have about as much to read.
    """
    tokens = [0] * world
    owner: dict[tuple[int, ...], int] = {}
    mine = np.zeros(len(requests), dtype=bool)
    for number, request in enumerate(requests):
        if (context := request.context) not in owner:
            owner[context] = tokens.index(min(tokens))
            tokens[owner[context]] += len(context)
        tokens[owner[context]] += len(request.answer)
        mine[number] = owner[context] == rank
    return mine


class _Forest:
    """A row in the making."""

    def __init__(self) -> None:
        self.children: dict[tuple[int, int], int] = {}
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self.paths: dict[int, list[int]] = {}

    def missing(self, tokens: Sequence[int]) -> int:
        """How many tokens a sequence would add."""
        parent = -1
        for index, token in enumerate(tokens):
            if (child := self.children.get((parent, token))) is None:
                return len(tokens) - index
            parent = child
        return 0

    def add(self, number: int, tokens: Sequence[int]) -> None:
        """Add a request's tokens."""
        parent = -1
        path: list[int] = []
        for token in tokens:
            child = self.children.get((parent, token))
            if child is None:
                child = self.children[(parent, token)] = len(self.tokens)
                self.tokens.append(token)
                self.parent.append(parent)
                self.depth.append(len(path))
            path.append(child)
            parent = child
        self.paths[number] = path

    def row(self, requests: Sequence[Asked]) -> TokenRow:
        """The row as it stands."""
        return TokenRow(
            np.array(self.tokens, dtype=np.int64),
            np.array(self.depth, dtype=np.int64),
            np.array(self.parent, dtype=np.int64),
            tuple(self.paths),
            tuple(np.array(path[-len(requests[number].answer) :]) for number, path in self.paths.items()),
        )


def batch_tokens(rows: int) -> int:
    """Tokens of a batch of trees, where so many requests are asked at a time."""
    return max(_LEAST_TOKENS, rows * _ROW_TOKENS)


def pack_trees(
    requests: Sequence[Asked], numbers: Iterable[int], capacity: int, most: int | None = None
) -> list[TokenRow]:
    """Rows of at most `capacity` tokens, where no single context with its answers is longer; contexts are never split.

    Args:
        numbers: which of the requests to pack.
        most: a row whose contexts share a long beginning, as worked examples are, grows to four times that, but not
            beyond so many tokens; no more than `capacity` if None.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in numbers:
        groups.setdefault(requests[number].context, []).append(number)
    rows: list[TokenRow] = []
    forest = _Forest()
    for context in sorted(groups):  # so that those with a common beginning are neighbours
        alone = _Forest()
        for number in groups[context]:
            alone.add(number, requests[number].tokens)
        missing = forest.missing(context)
        new = missing + len(alone.tokens) - len(context)
        shared = _OVER_SHARED * (len(context) - missing)
        room = capacity if most is None else max(capacity, min(shared, most))
        if forest.tokens and len(forest.tokens) + new > room:
            rows.append(forest.row(requests))
            forest = _Forest()
        for number in groups[context]:
            forest.add(number, requests[number].tokens)
    return [*rows, forest.row(requests)] if forest.tokens else rows


def pack_chains(requests: Sequence[Asked], numbers: Iterable[int]) -> list[TokenRow]:
    """Ordinary sequences: a row for each request, but none for one that is the beginning of another's."""
    rows: list[TokenRow] = []
    forest = _Forest()
    last: tuple[int, ...] = ()
    for number in sorted(numbers, key=lambda n: requests[n].tokens, reverse=True):
        tokens = requests[number].tokens
        if last[: len(tokens)] != tokens:
            if forest.tokens:
                rows.append(forest.row(requests))
            forest, last = _Forest(), tokens
        forest.add(number, tokens)
    return [*rows, forest.row(requests)] if forest.tokens else rows


def plain_tokens(requests: Iterable[Asked]) -> int:
    """Tokens that one evaluation of one model reads, request by request.

    Requests that differ in their one last answer token only are one reading, as in lm-eval.
    """
    return sum(len(tokens) for tokens in {request.tokens for request in requests})
