"""The best documents of a ranking as text to heal on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heal.ranking.document import Ranking
from heal.ranking.findings.summary import best_first, take
from heal.ranking.rows import PoolDocument
from heal.ranking.settings import parse_share
from prune.common.errors import UsageError


def budget_of(select: str, tokens: Sequence[int]) -> float:
    """How many tokens a selection has of documents with so many each.

    Raises:
        UsageError: more than there are, or not a share or a count.
    """
    share, total = parse_share(select), sum(tokens)
    budget = share * total if isinstance(share, float) else float(share)
    if budget > total:
        raise UsageError(
            f"--select {select} is more than the {total} tokens of the pool; give less, or more --documents"
        )
    return budget


def select_documents(
    ranking: Ranking, documents: Sequence[PoolDocument], select: str, *, by: str, domain: str | None = None
) -> list[dict[str, Any]]:
    """The best documents, as rows for `heal qlora --text`: text, source, topic, kind, score, the best first.

    A text that stands in the pool several times is taken once. Documents are taken whole, as many as come nearest to
    the share of the pool's tokens.

    Args:
        ranking: of these documents.
        select: a share such as `10%`, or tokens such as `30k`.
        by: the method.
        domain: one of the ranking; None for the mean of the z-scores over all of them.

    Raises:
        UsageError: no such method or domain, or more text than there is.
        ValueError: other documents than those of the ranking.
    """
    if [document.digest for document in documents] != [row.sha256 for row in ranking.documents]:
        raise ValueError("the documents are not those of the ranking")
    scores = ranking.method(by).of(domain)
    unlike: dict[str, int] = {}
    for number in best_first(scores):
        unlike.setdefault(documents[number].digest, int(number))
    order = list(unlike.values())
    tokens = [row.tokens for row in ranking.documents]
    budget = budget_of(select, [tokens[number] for number in order])
    return [
        {
            "text": documents[number].text,
            "source": documents[number].source,
            "topic": documents[number].topic,
            "kind": documents[number].kind,
            "score": scores[number],
        }
        for number in take(tokens, order, budget)
    ]


def selection_text(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as JSON lines."""
    import json

    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
