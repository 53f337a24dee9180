"""Is the loss in one domain larger than in another? In words, from the differences that a comparison holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.billing.rows.unparsed import unread_pair
from eval.reports.wording.text import larger, listed
from prune.common.sizes import counted

Record = Mapping[str, Any]

SENTENCES = 4  # findings in sentences; the table has all
SHOWN = 12  # rows on a terminal and in comparison.md; the page has all
UNSURE = "cannot tell"


def in_words(row: Record) -> str:
    """Which of the two domains lost more, by which measure, and what accuracy cannot say."""
    sides = {
        "accuracy": 0 if row["at_chance"] else larger(row["accuracy"]),
        "answer NLL": larger(row["answer_nll_bits_per_byte"]) if row["answer_nll_bits_per_byte"] else 0,
    }
    more = {name: row["domains"][0 if side > 0 else 1] for name, side in sides.items() if side}
    blind = f"; {listed(row['at_chance'])} at chance before the cut" if row["at_chance"] else ""
    if not more:
        return f"{UNSURE}{blind}"
    if len(set(more.values())) == 2:
        return f"by accuracy {more['accuracy']} lost more, by answer NLL {more['answer NLL']}"
    by = "by both measures" if len(more) == 2 else f"by {next(iter(more))}"
    return f"{next(iter(more.values()))} lost more, {by}{blind}"


def thinking_in_words(row: Record, thinking: Sequence[Record], full: str) -> str:
    """Which of two domains lost more of what it knew at once, and which more of what thinking gained.

    Nothing is claimed of a measure for which too many answers of `thinking`, of this model or the `full` one, were not
    parsed.
    """
    lost: dict[str, list[str]] = {}
    blind: list[str] = []
    for key, what in (("a_fast", "knowledge"), ("delta", "reasoning gain")):
        side = larger(row[key])
        unread = unread_pair(thinking, row, full, key)
        if side and unread:
            blind += unread
        elif side:
            lost.setdefault(row["domains"][0 if side > 0 else 1], []).append(f"more {what}")
    told = ", ".join(f"{domain} lost {listed(what)}" for domain, what in lost.items()) or UNSURE
    return f"{told}; many answers not parsed in {listed(list(dict.fromkeys(blind)))}" if blind else told


def findings(rows: Sequence[Record], words: Sequence[str]) -> list[str]:
    """The differences beyond doubt in sentences; `words` says what each row tells."""
    return [
        f"{row['model']}, {row['domains'][0]} against {row['domains'][1]}, {row['protocol']}: {text}."
        for row, text in zip(rows, words, strict=True)
        if not text.startswith(UNSURE)
    ]


def interaction_findings(rows: Sequence[Record]) -> tuple[str, ...]:
    """What the page says above the table: the largest differences first, where accuracy can tell."""
    by_size = sorted(rows, key=lambda row: (bool(row["at_chance"]), -abs(row["accuracy"]["estimate"])))
    sentences = findings(by_size, [in_words(row) for row in by_size])
    if not sentences:
        return ("No two domains lost unlike amounts beyond doubt.",)
    rest = len(sentences) - SENTENCES
    more = (f"{counted(rest, 'difference')} more beyond doubt, in the table.",) if rest > 0 else ()
    return (*sentences[:SENTENCES], *more)


def clearest(rows: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    """All rows, or of many those with an interval that excludes 0, the clearest first; `keys` names the intervals."""
    if len(rows) <= SHOWN:
        return list(rows)

    def clearness(row: Record) -> float:
        intervals = [row[key] for key in keys if row[key]]
        return max(abs(i["estimate"]) / (i["high"] - i["low"]) if i["high"] > i["low"] else 0.0 for i in intervals)

    clear = [row for row in rows if any(larger(row[key]) for key in keys if row[key])]
    return sorted(clear, key=clearness, reverse=True)[:SHOWN]
