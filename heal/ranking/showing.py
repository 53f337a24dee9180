"""rank.json for people: tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heal.ranking.document import DomainScores, MethodScores, Ranking
from heal.ranking.findings.summary import best_first
from prune.common.screen.tables import Cell, Table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_FIRST = 5  # documents that are shown for a domain
_BINS = 4  # of the best bins, and of the worst
_NOISE = "random"


def rank_tables(ranking: Ranking) -> Group:
    """The result in words and tables: the first documents, the best and worst bins, and the published claims."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(line) for line in _lines(ranking)]
    for method in ranking.methods:
        if method.method != _NOISE:
            parts += [_documents(ranking, method, one) for one in method.domains]
            parts += _bins(method)
            parts += _claims(method)
    return Group(*parts)


def _lines(ranking: Ranking) -> list[str]:
    tokens = sum(document.tokens for document in ranking.documents)
    lines = [
        f"{ranking.model}: {len(ranking.documents)} documents of {tokens:,} tokens, {len(ranking.questions)} queries, "
        f"scored by {', '.join(method.method for method in ranking.methods)}"
    ]
    if ranking.adapter is not None:
        adapter = ranking.adapter
        how = f"warmed up on {adapter.warm_up_tokens:,} tokens" if adapter.warm_up_tokens else f"from {adapter.folder}"
        lines.append(
            f"gradients by LoRA weights of rank {adapter.rank} on {adapter.targets}, {how}, {adapter.bits} bits"
        )
    return lines


def _documents(ranking: Ranking, method: MethodScores, one: DomainScores) -> Table:
    rows = []
    for number in best_first(one.scores)[:_FIRST]:
        document = ranking.documents[number]
        score = Cell(f"{one.scores[number]:.4g}", f"± {one.stderr[number]:.2g}")
        where = " / ".join(filter(None, (document.source, document.topic, document.kind)))
        rows.append((str(one.ranks[number]), score, where, document.words))
    return Table.of(
        f"First for {one.domain} by {method.method}",
        ("place", "score", "bin", "first words"),
        rows,
        words=("bin", "first words"),
        caption=f"{method.unit}, mean over {one.queries} queries and its standard error",
    )


def _bins(method: MethodScores) -> list[Table]:
    """The best and the worst bins for each domain; none where all documents are of one bin."""
    if len(method.bins) < 2:
        return []
    tables = []
    for domain in method.domains:
        means = [next(one for one in row.domains if one.domain == domain.domain) for row in method.bins]
        order = [int(number) for number in best_first([one.score for one in means])]
        shown = order if len(order) <= 2 * _BINS else [*order[:_BINS], *order[-_BINS:]]
        rows = []
        for number in shown:
            row, mean = method.bins[number], means[number]
            bounds = "" if mean.interval is None else f"[{mean.interval.low:.3g}, {mean.interval.high:.3g}]"
            where = " / ".join(filter(None, (row.source, row.topic, row.kind)))
            rows.append((where, str(row.documents), Cell(f"{mean.score:.4g}", bounds)))
        left = len(order) - len(shown)
        caption = f"{left} bins between are left out" if left else ""
        tables.append(
            Table.of(
                f"Bins for {domain.domain} by {method.method}", ("bin", "documents", "score"), rows, words=("bin",),
                caption=caption,
            )
        )  # fmt: skip
    return tables


def _claims(method: MethodScores) -> list[Table]:
    if method.contrasts is None:
        return []
    rows = []
    for claim in method.contrasts.claims:
        value = claim.value
        cell = Cell("") if value is None else Cell(f"{value.estimate:.3g}", f"[{value.low:.3g}, {value.high:.3g}]")
        rows.append((claim.name, cell, claim.verdict))
    title = f"Claims of arXiv 2411.12580 by {method.method}"
    return [Table.of(title, ("difference", "value", "verdict"), rows, words=("difference", "verdict"))]
