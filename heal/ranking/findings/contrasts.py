"""The claims of arXiv 2411.12580 on scores of documents: transfer, generality, and answers. Pure arithmetic.

Scores have the shape (D, Q): documents of the pool by queries, larger for a document that helps a query more. The pool
is fixed: all intervals are over queries that could have been asked instead. The rule of the verdicts
(`heal.ranking.findings.claims.judge`) was written before anything was measured, as were the margins here.

* transfer: the scores of two queries that need the same steps with other numbers correlate (Pearson, over documents).
* generality: half of the positive influence is spread over more documents for reasoning than for facts.
* answers: the answer itself stands in the top documents of factual queries, and not in those of reasoning.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from heal.ranking.findings.claims import FEWEST, FEWEST_OF_A_STRATUM, Claim, Flags, Floats, jackknife, judge
from heal.ranking.rows import PoolDocument, Query
from prune.common.files.artefact import Part
from prune.common.intervals import Estimates, Interval, Redraws

Kind = Literal["reasoning", "factual", "control"]
CORRELATION_MARGIN = 0.1
SHARE_MARGIN = 0.01  # of the pool
HITS_MARGIN = 0.05
TOP, TOP_SHARE = 10, 0.01  # documents searched for an answer: the larger of a count and a share of the pool
COMMON = 0.5  # chance at random from which on an answer in the top documents is no evidence
RESAMPLES = 2000


class Mean(Part):
    """A mean over queries, or over pairs of them."""

    name: str = Field(description="of what")
    queries: int = Field(description="how many queries it is of")
    value: Interval | None = Field(description="with its 95 % interval; null where there are too few queries")


class Contrasts(Part):
    """What the scores of one method say of the claims."""

    correlations: tuple[Mean, ...] = Field(
        description="mean correlation of document scores between two queries, by what the two have in common"
    )
    shares: tuple[Mean, ...] = Field(
        description="share of the pool's documents that carries half of a query's positive influence"
    )
    top: int = Field(description="how many of a query's highest documents are searched for its answer")
    hits: tuple[Mean, ...] = Field(
        description="share of queries whose answer stands in one of the top documents, of those where it can tell"
    )
    base: tuple[Mean, ...] = Field(description="the same of as many documents drawn at random from the pool")
    claims: tuple[Claim, ...] = Field(description="the published claims, each with a verdict")


def contrasts(
    scores: ArrayLike,
    documents: Sequence[PoolDocument],
    queries: Sequence[Query],
    kinds: Sequence[Kind | None],
    *,
    seed: int,
) -> Contrasts:
    """All claims.

    Args:
        scores: shape (D, Q).
        documents: D of them.
        queries: Q of them.
        kinds: what each query is here, (Q,); None for one that is none of these.

    Raises:
        ValueError: the scores are of another shape, or one is no finite number.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.shape != (len(documents), len(queries)) or len(kinds) != len(queries) or not table.size:
        raise ValueError(f"scores of shape {table.shape} for {len(documents)} documents and {len(queries)} queries")
    if not np.isfinite(table).all():
        raise ValueError("a score is no finite number")
    top = min(len(documents), max(TOP, round(TOP_SHARE * len(documents))))
    correlations, transferred = transfer(table, queries, kinds)
    shares, general = generality(table, kinds, seed=seed)
    hits, base, answered = answers(table, documents, queries, kinds, top=top, seed=seed)
    return Contrasts(
        correlations=correlations,
        shares=shares,
        top=top,
        hits=hits,
        base=base,
        claims=(*transferred, general, *answered),
    )


def transfer(
    scores: Floats, queries: Sequence[Query], kinds: Sequence[Kind | None]
) -> tuple[tuple[Mean, ...], tuple[Claim, ...]]:
    """Correlations of document scores, and by how much those of one procedure exceed all others.

    Pairs of queries: of one procedure, of two procedures, of one procedure and its control (the same words without the
    steps), and of two facts of one domain. Means are over pairs, then over procedures or domains, so that each counts
    the same. Queries with the same prompt are no pair. A procedure or domain of fewer than three queries is left out.

    Claimed: the first mean is above each of the others. Two queries of like form correlate without any reasoning, which
    is why the one against its control is the strictest.
    """
    strata = _strata(queries, kinds)
    found = _correlations(scores)
    for first, second in itertools.combinations(range(len(queries)), 2):
        if queries[first].prompt == queries[second].prompt:
            found[first, second] = found[second, first] = np.nan
    names = ("one procedure", "two procedures", "a procedure and its control", "two facts")
    pairs = _pairs(strata)

    def statistic(kept: Flags) -> Floats:
        means = np.array([_mean_of_pairs(found, some, kept) for some in pairs])
        return np.concatenate([means, means[0] - means[1:]])

    intervals = jackknife(statistic, list(strata.values()), len(queries))
    known = [interval if math.isfinite(interval.low + interval.high) else None for interval in intervals]
    involved = [len({number for one in some for group in one for number in group}) for some in pairs]
    means = tuple(
        Mean(name=name, queries=number, value=value)
        for name, number, value in zip(names, involved, known[:4], strict=True)
    )
    claims = tuple(
        judge(
            f"transfer: correlation of one procedure less that of {name}",
            value,
            margin=CORRELATION_MARGIN,
            note="" if value else f"fewer than {FEWEST_OF_A_STRATUM} queries of one procedure, or of {name}",
        )
        for name, value in zip(names[1:], known[4:], strict=True)
    )
    return means, claims


Stratum = tuple[Kind, str]
Groups = list[tuple[Sequence[int], Sequence[int]]]  # pairs are of one query of the first and one of the second


def _strata(queries: Sequence[Query], kinds: Sequence[Kind | None]) -> dict[Stratum, list[int]]:
    """Queries that are drawn anew together: of one procedure, of its control, or of facts of one domain."""
    strata: dict[Stratum, list[int]] = {}
    for number, (query, kind) in enumerate(zip(queries, kinds, strict=True)):
        if kind == "factual":
            strata.setdefault((kind, query.domain), []).append(number)
        elif kind is not None and query.procedure is not None:
            strata.setdefault((kind, query.procedure), []).append(number)
    return {name: members for name, members in strata.items() if len(members) >= FEWEST_OF_A_STRATUM}


def _pairs(strata: dict[Stratum, list[int]]) -> tuple[Groups, Groups, Groups, Groups]:
    procedures = {name: members for (kind, name), members in strata.items() if kind == "reasoning"}
    return (
        [(members, members) for members in procedures.values()],
        list(itertools.combinations(procedures.values(), 2)),
        [(members, strata["control", name]) for name, members in procedures.items() if ("control", name) in strata],
        [(members, members) for (kind, _), members in strata.items() if kind == "factual"],
    )


def _mean_of_pairs(found: Floats, groups: Groups, kept: Flags) -> float:
    means = []
    for first, second in groups:
        block = found[np.ix_([i for i in first if kept[i]], [i for i in second if kept[i]])]
        if (there := ~np.isnan(block)).any():
            means.append(float(block[there].mean()))
    return float(np.mean(means)) if means else math.nan


def _correlations(scores: Floats) -> Floats:
    """Pearson's, (Q, Q); NaN on the diagonal and for a query whose scores are all the same."""
    centred = scores - scores.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    norms[norms <= 1e-12 * np.abs(scores).max(0)] = np.nan
    centred = centred / norms
    found: Floats = centred.T @ centred
    np.fill_diagonal(found, np.nan)
    return found


def generality(scores: Floats, kinds: Sequence[Kind | None], *, seed: int) -> tuple[tuple[Mean, ...], Claim]:
    """Which share of the documents carries half of a query's positive influence, for reasoning and for facts.

    A query without any positive score has no such share and is left out. Claimed: the share is larger for reasoning.
    (The paper finds the influence on reasoning smaller per document and less volatile, and yet its ranking steeper at
    the very top, so that this claim stands on the first of the two.)
    """
    shares = {kind: [half_share(scores[:, number]) for number in _of(kinds, kind)] for kind in _BOTH}
    sides = {kind: _Side([s for s in some if s > 0], range(sum(s > 0 for s in some))) for kind, some in shares.items()}
    claim = _difference(
        "generality: share of documents for reasoning less that for facts",
        sides["reasoning"],
        sides["factual"],
        margin=SHARE_MARGIN,
        seed=seed,
        note=f"fewer than {FEWEST} queries of a kind with a positive score",
    )
    return tuple(side.mean(kind, seed) for kind, side in sides.items()), claim


def half_share(scores: Floats) -> float:
    """The least share of documents that sums to half of all positive scores, (D,); 0 where none is positive."""
    positive = np.sort(scores[scores > 0])[::-1]
    if not len(positive):
        return 0.0
    sums = np.cumsum(positive)
    return float(np.searchsorted(sums, sums[-1] / 2) + 1) / len(scores)


def answers(
    scores: Floats,
    documents: Sequence[PoolDocument],
    queries: Sequence[Query],
    kinds: Sequence[Kind | None],
    *,
    top: int,
    seed: int,
) -> tuple[tuple[Mean, ...], tuple[Mean, ...], tuple[Claim, Claim]]:
    """Whether the words of a query's `key` stand in its top documents, beside as many documents drawn at random.

    The words must stand there in their order, whole, without case. The chance that k of D documents drawn at random
    hold one of the m that have the key is exactly 1 - C(D - m, k) / C(D, k). Queries of one key are drawn anew
    together.

    Three kinds of keys are no evidence, and their queries are left out: one without a letter, as 12 stands in many
    texts; one that stands in no document, as nothing could have found it; one whose chance at random is a half or more.

    Returns:
        hits, their base rate, and the claims: that facts have more hits than at random, and that what they have beyond
        random is more than for reasoning.
    """
    texts = [_spaced(document.text) for document in documents]
    hits: list[Mean] = []
    bases: list[Mean] = []
    beyond: dict[Kind, _Side] = {}
    for kind in _BOTH:
        rows = []
        for number in _of(kinds, kind):
            key = _spaced(queries[number].key)
            having = np.array([key in text for text in texts])
            base = _at_random(len(texts), int(having.sum()), top)
            if re.search(r"[^\W\d_]", key) and 0 < base < COMMON:
                highest = np.argsort(-scores[:, number], kind="stable")[:top]
                rows.append((float(having[highest].any()), base, key))
        keys = [key for _, _, key in rows]
        hits.append(_Side([hit for hit, _, _ in rows], keys).mean(kind, seed))
        bases.append(_Side([base for _, base, _ in rows], keys).mean(kind, seed))
        beyond[kind] = _Side([hit - base for hit, base, _ in rows], keys)
    facts = beyond["factual"].mean("", seed).value
    few = f"fewer than {FEWEST} unlike answers in words of %s stand in the pool, and not everywhere"
    alone = judge(
        "answers: hits of facts less those at random",
        facts,
        margin=HITS_MARGIN,
        note="" if facts else few % "factual queries",
    )
    against = _difference(
        "answers: hits beyond random of facts less those of reasoning",
        beyond["factual"],
        beyond["reasoning"],
        margin=HITS_MARGIN,
        seed=seed,
        note=few % "queries of a kind",
    )
    return tuple(hits), tuple(bases), (alone, against)


def _at_random(documents: int, having: int, drawn: int) -> float:
    """The chance that `drawn` of so many documents hold one or more of those `having` something."""
    none = np.arange(having)
    return 1.0 - float(np.prod(np.maximum(documents - drawn - none, 0) / (documents - none)))


def _spaced(text: str) -> str:
    """The words with one space before, between and behind them, without case."""
    return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])


def _of(kinds: Sequence[Kind | None], wanted: Kind) -> list[int]:
    return [number for number, kind in enumerate(kinds) if kind == wanted]


_BOTH: tuple[Kind, Kind] = ("reasoning", "factual")


@dataclass(frozen=True)
class _Side:
    """One number of each query, (n,), and the cluster that the query is of, (n,)."""

    values: Sequence[float]
    clusters: Sequence[int | str]

    def estimates(self, seed: int | list[int]) -> Estimates | None:
        """None of fewer than `FEWEST` clusters."""
        if len(set(self.clusters)) < FEWEST:
            return None
        return Redraws.of(list(self.clusters), resamples=RESAMPLES, seed=seed).means(self.values)

    def mean(self, name: str, seed: int) -> Mean:
        found = self.estimates(seed)
        return Mean(name=name, queries=len(self.values), value=found.intervals()[0] if found else None)


def _difference(name: str, first: _Side, second: _Side, *, margin: float, seed: int, note: str) -> Claim:
    """The claim that the mean of the first is above that of the second, both of independent queries."""
    one, two = first.estimates([seed, 0]), second.estimates([seed, 1])
    if one is None or two is None:
        return judge(name, None, margin=margin, note=note)
    return judge(name, (one - two).intervals()[0], margin=margin)
