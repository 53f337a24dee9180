"""Scores by groups of like documents: those of single documents are noisy, means of bins less so. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from heal.ranking.rows import PoolDocument, Query
from prune.common.files.artefact import Part
from prune.common.intervals import Interval, Redraws

RESAMPLES = 2000
FEWEST = 4  # unlike documents of a bin; of two, half of such intervals miss
MOST_CLUSTERS = 1000  # of a bin: more are thrown together at random, so that the resamples stay small


class DomainMean(Part):
    """What a bin's documents do for a domain on the mean."""

    domain: str = Field(description="the queries' domain")
    score: float = Field(description="mean score over the bin's documents and the domain's queries")
    interval: Interval | None = Field(
        description="with its 95 % interval, documents drawn anew; null where the bin holds fewer than four"
    )


class BinMean(Part):
    """Documents of one source, topic and kind."""

    source: str = Field(description="where they come from")
    topic: str = Field(description="what they are about; empty where the rows do not say")
    kind: str = Field(description="what sort of text they are; empty where the rows do not say")
    documents: int = Field(description="how many")
    domains: tuple[DomainMean, ...] = Field(description="by domain, in the order of the queries")


def bin_means(
    scores: ArrayLike, documents: Sequence[PoolDocument], queries: Sequence[Query], *, seed: int
) -> tuple[BinMean, ...]:
    """The mean score of each bin (source x topic x kind) by domain, bins in the order of their first document.

    A document's score for a domain is its mean over the domain's queries, which are held fixed. Documents are drawn
    anew; copies of one text are drawn together. The interval is the bootstrap-t of `prune.common.intervals`, as a bin
    may be small and its scores have heavy tails.

    Args:
        scores: shape (D, Q), larger for a document that helps a query more.
        documents: D of them.
        queries: Q of them.
        seed: of the bootstrap.

    Raises:
        ValueError: the scores are of another shape, or one is no finite number.
    """
    values, domains = by_domain(scores, documents, queries)
    members: dict[tuple[str, str, str], list[int]] = {}
    for number, document in enumerate(documents):
        members.setdefault(document.bin, []).append(number)
    return tuple(
        BinMean(
            source=source,
            topic=topic,
            kind=kind,
            documents=len(numbers),
            domains=_means(values[numbers], domains, [documents[number].digest for number in numbers], seed),
        )
        for (source, topic, kind), numbers in members.items()
    )


def by_domain(
    scores: ArrayLike, documents: Sequence[PoolDocument], queries: Sequence[Query]
) -> tuple[NDArray[np.float64], list[str]]:
    """Mean scores over each domain's queries, (D, domains), and the domains in the order of their first query.

    Raises:
        ValueError: the scores are of another shape, or one is no finite number.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.shape != (len(documents), len(queries)) or not table.size:
        raise ValueError(f"scores of shape {table.shape} for {len(documents)} documents and {len(queries)} queries")
    if not np.isfinite(table).all():
        raise ValueError("a score is no finite number")
    places: dict[str, list[int]] = {}
    for number, query in enumerate(queries):
        places.setdefault(query.domain, []).append(number)
    return np.stack([table[:, numbers].mean(1) for numbers in places.values()], axis=1), list(places)


def _means(
    values: NDArray[np.float64], domains: Sequence[str], digests: Sequence[str], seed: int
) -> tuple[DomainMean, ...]:
    """Of one bin: values (n, domains) of documents with these hashes."""
    clusters: Sequence[str | int] = digests
    if len(set(digests)) > MOST_CLUSTERS:
        clusters = [int(digest, 16) % MOST_CLUSTERS for digest in digests]
    intervals: list[Interval | None] = [None] * len(domains)
    if len(set(clusters)) >= FEWEST:
        intervals = list(Redraws.of(clusters, resamples=RESAMPLES, seed=seed).means(values.T).intervals())
    return tuple(
        DomainMean(domain=domain, score=float(score), interval=interval)
        for domain, score, interval in zip(domains, values.mean(0), intervals, strict=True)
    )
