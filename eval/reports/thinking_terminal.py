"""Fast and slow thinking as a table: from the `thinking` rows of comparison.json or run.json, rich or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.billing.unparsed import unread, unread_pair
from eval.reports.rich_tables import legend, rich_table
from prune.common.tables import markdown_table

if TYPE_CHECKING:
    from rich.console import RenderableType

HEAD = ("model", "A_fast, %", "A_slow, %", "δ, points", "r_c, %", "r_o, %", "unparsed, %", "cut, %")
CHANGES = ("Δ A_fast, points", "Δ A_slow, points", "Δ δ, points")

_MEASURES = ("a_fast", "a_slow", "delta")

INTERACTIONS_HEAD = ("loss in", "model", "A_fast, points", "A_slow, points", "δ, points")

HOW_TO_READ = (
    "A_fast, A_slow: right at once, and after a chain of thought, on the same questions; chance is that of a blind "
    "guess. δ = A_slow - A_fast is what reasoning adds. r_c: share of fast wrong answers that slow thinking corrects; "
    "r_o: share of fast right answers that it spoils. Δ: to the full model. All with 95 % intervals (Wilson; paired "
    "for δ and Δ). Unparsed: answers that name no option or number, fast / slow; they count as wrong, so that r_o "
    "and a falling A_slow hold damage to the form of answers too; ? where they are more than a fifth, so that a loss "
    "proves none of knowledge. Cut: chains that reached the token limit."
)


def thinking_cells(row: dict[str, Any]) -> list[str]:
    """What one model scored in both modes, in the columns of `HEAD`; `?` where too many answers were not parsed."""
    return [
        str(row["model"]),
        _percent(row["a_fast"]),
        _percent(row["a_slow"]),
        _points(row["delta"]),
        _percent(row["r_c"]),
        _percent(row["r_o"]),
        _doubt(f"{100 * row['unparseable_fast']:.0f} / {100 * row['unparseable_slow']:.0f}", unread(row, "delta")),
        f"{100 * row['cut_slow']:.0f}",
    ]


def change_cells(row: dict[str, Any]) -> list[str]:
    """What changed against the full model, in the columns of `CHANGES`; empty for the full model itself."""
    versus = row["versus"]
    return [""] * 3 if versus is None else [_doubt(_points(versus[key]), unread(row, key)) for key in _MEASURES]


def thinking_interaction_cells(document: dict[str, Any], *, shown: int) -> list[list[str]]:
    """Rows for `INTERACTIONS_HEAD`; of more than `shown`, those with an interval that excludes 0, so many at most."""
    found = document.get("thinking_interactions") or []
    if len(found) > shown:
        found = [one for one in found if any(one[key]["low"] > 0 or one[key]["high"] < 0 for key in _MEASURES)][:shown]
    cells = []
    for one in found:
        full = document["models"][0]["label"]
        blind = {key: bool(unread_pair(document["thinking"], one, full, key)) for key in _MEASURES}
        points = [_doubt(_points(one[key]), blind[key]) for key in _MEASURES]
        cells.append([f"{' - '.join(one['domains'])} {one['protocol']}", one["model"], *points])
    return cells


def thinking_markdown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: the table, and how to read it; [] without rows."""
    if not rows:
        return []
    head = ("questions", "n", "chance", *HEAD, *CHANGES)
    cells = []
    for row in rows:
        where = [f"{row['domain']} {row['protocol']}", str(row["n"]), f"{100 * row['chance']:.0f} %"]
        cells.append([*where, *thinking_cells(row), *change_cells(row)])
    return ["", "Fast and slow thinking:", "", *markdown_table(head, cells), "", HOW_TO_READ]


def thinking_tables(rows: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """The same for a terminal of 80 columns, in short tables with the questions on lines of their own; [] without."""
    if not rows:
        return []
    scores, rates, changes = [], [], []
    for row in rows:
        questions, name = f"{row['domain']} {row['protocol']}", f"  {row['model']}"
        _, fast, slow, gain, *rest = thinking_cells(row)
        if row["versus"] is None:
            scores.append([questions, str(row["n"]), f"{100 * row['chance']:.0f} %", "", "", ""])
            rates.append([questions, *[""] * len(rest)])
            changes.append([questions, *[""] * len(CHANGES)])
        else:
            changes.append([name, *change_cells(row)])
        scores.append([name, "", "", fast, slow, gain])
        rates.append([name, *rest])
    tables = [
        rich_table("Fast and slow thinking", ("model", "n", "chance", *HEAD[1:4]), scores),
        rich_table("What slow thinking corrects and spoils", ("model", *HEAD[4:]), rates),
    ]
    if any(row["versus"] is not None for row in rows):
        tables.append(rich_table("Change of fast and slow thinking", ("model", *CHANGES), changes))
    return [*tables, legend(HOW_TO_READ)]


def _doubt(cell: str, doubtful: bool) -> str:
    return f"{cell} ?" if doubtful else cell


def _percent(found: dict[str, float] | None) -> str:
    if found is None:
        return "–"
    return f"{100 * found['estimate']:.0f} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _points(found: dict[str, float]) -> str:
    return f"{100 * found['estimate']:+.1f} [{100 * found['low']:+.0f}, {100 * found['high']:+.0f}]"
