"""From scores of documents by queries to scores by domain, and to ranks. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def domain_scores(scores: ArrayLike, domains: Sequence[str], domain: str) -> tuple[Floats, Floats]:
    """Each document's mean score over the queries of a domain, and its standard error over these: (D,) both.

    Args:
        scores: shape (D, Q).
        domains: of each query, (Q,).

    Raises:
        ValueError: fewer than two queries of the domain.
    """
    of_domain = np.asarray(scores, dtype=np.float64)[:, [name == domain for name in domains]]
    count = of_domain.shape[1]
    if count < 2:
        raise ValueError(f"{count} queries of {domain}: a standard error needs two")
    return of_domain.mean(1), of_domain.std(1, ddof=1) / np.sqrt(count)


def ranks(scores: ArrayLike) -> NDArray[np.intp]:
    """Places from 1 on, the highest score first, equals in the order in which they stand: (D,)."""
    order = best_first(scores)
    places = np.empty_like(order)
    places[order] = np.arange(1, len(order) + 1)
    return places


def best_first(scores: ArrayLike) -> NDArray[np.intp]:
    """Numbers of the documents, the highest score first, equals in the order in which they stand: (D,)."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")


def joint(scores: Sequence[ArrayLike]) -> Floats:
    """One score of several domains' scores, each (D,): the mean of their z-scores, so that each domain counts alike.

    Scores that are all the same say nothing, and count as 0.
    """
    parts = []
    for one in scores:
        values = np.asarray(one, dtype=np.float64)
        spread = values.std()
        parts.append((values - values.mean()) / spread if spread > 0 else np.zeros_like(values))
    joined: Floats = np.mean(parts, axis=0)
    return joined


def take(tokens: Sequence[int], order: Sequence[int], budget: float) -> list[int]:
    """The first documents of an order whose tokens come nearest to a budget; one at least, and of equals the more.

    Args:
        tokens: of each document, (D,).
        order: numbers of documents, the first first.
    """
    taken: list[int] = []
    total = 0
    for number in order:
        if taken and total + tokens[number] / 2 > budget:
            break
        taken.append(int(number))
        total += tokens[number]
    return taken
