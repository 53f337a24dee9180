"""The report's answer to "is the loss in one domain larger than in another"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from eval.billing.unparsed import unread_pair
from eval.reports.model import Part
from eval.reports.tables import A_FAST, A_SLOW, Cell, Column, Table, words
from eval.reports.text import bounds, counted, listed, signed

SAID = 4  # findings in sentences; the table has all
UNSURE = "cannot tell"


def interactions_part(comparison: Mapping[str, Any]) -> Part | None:
    """Differences between the losses of two domains, with their intervals; None where there are none."""
    found = comparison.get("interactions") or []
    if not found:
        return None
    lead = (
        "Whether a model lost more in one domain than in another, asked the same way: the loss in A minus the loss in "
        "B, with its 95 % interval. Where the full model is not above chance, accuracy has nothing to lose and says "
        "nothing; the answer NLL does."
    )
    several = len({row["model"] for row in found}) > 1
    columns = (
        Column("A against B", "domains and protocol", words=True),
        *([Column("Model", words=True)] if several else []),
        Column("Accuracy loss A − B, points", "percentage points; above 0: A lost more"),
        Column("NLL loss A − B, bits per byte", "bits per byte of the right answers; above 0: A lost more"),
        Column("In words", "a difference is named where its whole 95 % interval lies on one side of 0", words=True),
    )
    body = tuple(
        (
            words(f"{row['domains'][0]} against {row['domains'][1]}, {row['protocol']}"),
            *([words(row["model"])] if several else []),
            _difference(row["accuracy"], 100, 1),
            _difference(_nll(row), 1, 3),
            words(in_words(row)),
        )
        for row in found
    )
    table = Table("interaction", "Differences between losses, with 95 % intervals", columns, body)
    return Part(
        "interactions", "One domain against another", lead, _said(found, several), tables=(table,), short="Differences"
    )


def _difference(found: Mapping[str, float], scale: float, digits: int, *, doubtful: bool = False) -> Cell:
    look = "clear" if larger(found) and not doubtful else ""
    return Cell(signed(scale * found["estimate"], digits), bounds(found, scale, digits), found["estimate"], look)


def _nll(row: Mapping[str, Any]) -> Mapping[str, float]:
    """Per byte of the right answers; per answer in a file of an earlier version."""
    found: Mapping[str, float] = row.get("answer_nll_bits_per_byte") or row["answer_nll_bits"]
    return found


def larger(found: Mapping[str, float]) -> int:
    """1 where the first domain lost more beyond doubt, -1 where the second did, 0 where none can tell."""
    return int(found["low"] > 0) - int(found["high"] < 0)


def in_words(row: Mapping[str, Any]) -> str:
    """Which of the two domains lost more, by which measure, and what accuracy cannot say."""
    sides = {
        "accuracy": 0 if row["at_chance"] else larger(row["accuracy"]),
        "answer NLL": larger(_nll(row)),
    }
    more = {name: row["domains"][0 if side > 0 else 1] for name, side in sides.items() if side}
    blind = f"; {listed(row['at_chance'])} at chance before the cut" if row["at_chance"] else ""
    if not more:
        return f"{UNSURE}{blind}"
    if len(set(more.values())) == 2:
        return f"by accuracy {more['accuracy']} lost more, by answer NLL {more['answer NLL']}"
    by = "by both measures" if len(more) == 2 else f"by {next(iter(more))}"
    return f"{next(iter(more.values()))} lost more, {by}{blind}"


def _said(found: Sequence[Mapping[str, Any]], several: bool) -> tuple[str, ...]:
    told = [(row, in_words(row)) for row in found]
    sure = [(row, text) for row, text in told if not text.startswith(UNSURE)]
    if len(sure) > SAID:  # the largest first, where accuracy can tell
        sure.sort(key=lambda pair: (bool(pair[0]["at_chance"]), -abs(pair[0]["accuracy"]["estimate"])))
    sentences = []
    for row, text in sure[:SAID]:
        who = f"{row['model']}, " if several else ""
        sentences.append(f"{who}{row['domains'][0]} against {row['domains'][1]}, {row['protocol']}: {text}.")
    if len(sure) > SAID:
        sentences.append(f"{counted(len(sure) - SAID, 'difference')} more beyond doubt, in the table.")
    if not sure:
        sentences.append("No two domains lost unlike amounts beyond doubt.")
    return tuple(sentences)


def thinking_interactions(comparison: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Table, ...]]:
    """Whether a cut cost one domain more knowledge or more reasoning than another: sentences, and a table or none."""
    found = comparison.get("thinking_interactions") or []
    if not found:
        return (), ()
    columns = (
        Column("A against B", "domains and protocol", words=True),
        Column("Model", words=True),
        Column(Markup("Loss of {} A − B").format(A_FAST), "knowledge: in points; above 0: A lost more"),
        Column("Loss of δ A − B", "reasoning gain: in points; above 0: A lost more"),
        Column(Markup("Loss of {} A − B").format(A_SLOW), "accuracy after thinking: in points; above 0: A lost more"),
        Column("In words", "a difference is named where its whole 95 % interval lies on one side of 0", words=True),
    )
    unread = [_unread(row, comparison) for row in found]
    told = [thinking_in_words(row, doubtful) for row, doubtful in zip(found, unread, strict=True)]
    body = tuple(
        (
            words(f"{row['domains'][0]} against {row['domains'][1]}, {row['protocol']}"),
            words(row["model"]),
            *(_difference(row[key], 100, 1, doubtful=key in doubtful) for key in ("a_fast", "delta", "a_slow")),
            words(text),
        )
        for row, doubtful, text in zip(found, unread, told, strict=True)
    )
    caption = "Knowledge and reasoning lost, one domain against another, 95 % intervals"
    said = [
        f"{row['model']}, {row['domains'][0]} against {row['domains'][1]}, {row['protocol']}: {text}."
        for row, text in zip(found, told, strict=True)
        if not text.startswith(UNSURE)
    ]
    return tuple(said[:SAID]), (Table("thinking-interactions", caption, columns, body),)


def _unread(row: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, list[str]]:
    """Measures that too many unparsed answers spoil, each with the domains where they are."""
    full = comparison["models"][0]["label"]
    found = {key: unread_pair(comparison["thinking"], row, full, key) for key in ("a_fast", "a_slow", "delta")}
    return {key: domains for key, domains in found.items() if domains}


def thinking_in_words(row: Mapping[str, Any], unread: Mapping[str, Sequence[str]] | None = None) -> str:
    """Which of two domains lost more of what it knew at once, and which more of what thinking gained.

    Of a measure that is in `unread`, with the domains where too many answers were not parsed, nothing is claimed.
    """
    lost: dict[str, list[str]] = {}
    blind: list[str] = []
    for key, what in (("a_fast", "knowledge"), ("delta", "reasoning gain")):
        side = larger(row[key])
        if side and unread and key in unread:
            blind += unread[key]
        elif side:
            lost.setdefault(row["domains"][0 if side > 0 else 1], []).append(f"more {what}")
    told = ", ".join(f"{domain} lost {listed(what)}" for domain, what in lost.items()) or UNSURE
    return f"{told}; many answers not parsed in {listed(list(dict.fromkeys(blind)))}" if blind else told
