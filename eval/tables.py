"""The bill as tables: rich for the terminal, Markdown for a pull request. Both show the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.bill import ProseRow, Row, prose_row_from, row_from
from eval.statistics import Interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from eval.comparison import Comparison
    from eval.running import RunResult

SCORES = ("questions", "n", "chance", "model", "accuracy, %", "plain", "NLL, bits", "unparsed")
CHANGES = ("Δ accuracy, points", "Δ NLL, bits", "p", "flips", "kept")
PROSE = ("text", "model", "bits / byte", "Δ bits / byte", "nats / token", "Δ nats / token")
FEW = 30  # questions; below this an interval says little, and the table says so

HOW_TO_READ = (
    "Accuracy: the choice of highest log-likelihood per character, or the exact number; `plain` takes the highest "
    "log-likelihood as it is. NLL: -log2 p(gold answer | question), mean per answer; it moves where accuracy sits at "
    "chance. Δ: to the full model on the same questions, with its 95 % paired interval (accuracy: Bonett-Price; NLL: "
    "Student's t). p: exact McNemar, not corrected for the number of domains. Flips: questions lost / gained. Kept: "
    "accuracy above chance as a share of the full model's; – where that is not above chance, ? where its 95 % interval "
    "reaches down to chance, so that a share would be noise. Unparsed answers count as wrong."
)


def score_cells(row: Row) -> list[str]:
    """What one model scored."""
    return [
        f"{row.domain} {row.protocol}",
        f"{row.n}" + (" (few)" if row.n < FEW else ""),
        f"{100 * row.chance:.0f} %",
        row.model,
        _percent_interval(row.accuracy),
        f"{100 * row.accuracy_raw:.0f} %",
        f"{row.answer_nll_bits:.2f}",
        f"{100 * row.unparseable:.0f} %",
    ]


def change_cells(row: Row) -> list[str]:
    """What changed against the full model; empty for the full model itself."""
    versus = row.versus
    if versus is None:
        return ["", "", "", "", ""]
    kept = versus.retained_above_chance
    return [
        _signed(versus.accuracy_difference, 100, 1, bounds=0),
        _signed(versus.answer_nll_bits_difference, 1, 2),
        f"{versus.mcnemar_p:.3f}" if versus.mcnemar_p >= 0.001 else "< 0.001",
        f"{versus.lost}/{versus.gained}",
        "–" if kept is None else f"{100 * kept:.0f} %" if versus.full_above_chance else "?",
    ]


def prose_cells(row: ProseRow) -> list[str]:
    """Held-out loss of one model."""
    changes = [
        "" if found is None else _signed(found, 1, 3) for found in (row.difference_bits_per_byte, row.difference)
    ]
    return [row.text, row.model, f"{row.bits_per_byte:.3f}", changes[0], f"{row.nats_per_token:.3f}", changes[1]]


def _percent_interval(found: Interval) -> str:
    return f"{100 * found.estimate:.1f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _signed(found: Interval, scale: float, digits: int, *, bounds: int | None = None) -> str:
    bounds = digits if bounds is None else bounds
    return f"{scale * found.estimate:+.{digits}f} [{scale * found.low:+.{bounds}f}, {scale * found.high:+.{bounds}f}]"


def markdown(found: Comparison) -> str:
    """comparison.md: the table, the prose loss, notes, and how to read them."""
    lines = [f"## What the cut costs: {', '.join(found.labels[1:])} against {found.labels[0]}", ""]
    lines += _markdown_table((*SCORES, *CHANGES), [score_cells(r) + change_cells(r) for r in found.rows])
    if found.prose:
        lines += ["", "Held-out prose:", "", *_markdown_table(PROSE, [prose_cells(r) for r in found.prose])]
    lines += ["", *(f"- {note}" for note in notes(found.runs)), "", HOW_TO_READ, ""]
    return "\n".join(lines)


def notes(runs: Sequence[RunResult]) -> list[str]:
    """What a reader must know of how it was measured."""
    found = [f"{r.label}: {note}" for r in runs for note in r.notes]
    found += [f"{r.label}: the start of {r.truncated} requests was cut to fit the context" for r in runs if r.truncated]
    first = runs[0].settings
    found.append(f"{first['dtype']} on {first['device']}, batch size {first['batch_size']}, seed {first['seed']}")
    return found


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def comparison_table(found: dict[str, Any]) -> RenderableType:
    """The document of comparison.json for a terminal."""
    from rich.console import Group
    from rich.text import Text

    rows = [row_from(raw) for raw in found["rows"]]
    parts: list[Any] = [
        _rich_table("Scores", _GROUPED_SCORES, _grouped_scores(rows)),
        _rich_table(
            f"Change against {found['models'][0]['label']} (95 % paired intervals)",
            ("model", *CHANGES),
            _grouped_changes(rows),
        ),
    ]
    if found["prose"]:
        parts.append(_rich_table("Held-out prose", PROSE, [prose_cells(prose_row_from(p)) for p in found["prose"]]))
    return Group(*parts, Text(HOW_TO_READ, style="dim"))


# For the terminal the questions stand on a line of their own, the models below: so the tables fit 80 columns.
_GROUPED_SCORES = ("model", "n", "chance", *SCORES[4:])


def _grouped_scores(rows: Sequence[Row]) -> list[list[str]]:
    lines = []
    for row in rows:
        questions, n, chance, model, *scores = score_cells(row)
        if row.versus is None:
            lines.append([questions, n, chance] + [""] * len(scores))
        lines.append([f"  {model}", "", "", *scores])
    return lines


def _grouped_changes(rows: Sequence[Row]) -> list[list[str]]:
    lines = []
    for row in rows:
        if row.versus is None:
            lines.append([f"{row.domain} {row.protocol}"] + [""] * len(CHANGES))
        else:
            lines.append([f"  {row.model}", *change_cells(row)])
    return lines


def run_tables(document: dict[str, Any]) -> RenderableType:
    """One model's document (`describe_run`) for a terminal."""
    from rich.console import Group

    parts = [_rich_table("Scores", SCORES, [score_cells(row_from(raw)) for raw in document["rows"]])]
    if document["prose"]:
        parts.append(_rich_table("Held-out prose", PROSE, [prose_cells(prose_row_from(p)) for p in document["prose"]]))
    return Group(*parts)


def manifest_table(manifest: dict[str, Any]) -> RenderableType:
    """What `evaluate prepare` made, for a terminal."""
    from rich.console import Group

    domains = [
        [
            name,
            str(entry["protocols"]["choice"]),
            str(entry["protocols"]["generation"]),
            ", ".join(f"{key} {count}" for key, count in entry["sets"].items()),
            str(entry["repeats_dropped"]),
            ", ".join(entry["licences"]),
            ", ".join(entry["sets_absent"]),
        ]
        for name, entry in manifest["domains"].items()
    ]
    left = [
        [
            name,
            str(entry["rows"]),
            str(entry["questions"]),
            "; ".join(f"{k}: {v}" for k, v in entry["left_out"].items()),
        ]
        for name, entry in manifest["sets"].items()
    ]
    return Group(
        _rich_table(
            "Domains", ("domain", "choice", "generation", "sets", "repeats dropped", "licences", "not there"), domains
        ),
        _rich_table("Sets", ("set", "rows", "questions", "left out, and why"), left),
    )


def _rich_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in head:
        table.add_column(name, justify="left" if name in _WORDS else "right", overflow="fold", no_wrap=name in _WHOLE)
    for row in rows:
        table.add_row(*row)
    return table


_WHOLE = (
    "model",
    "accuracy, %",
    "Δ accuracy, points",
    "Δ NLL, bits",
    "Δ nats / token",
)  # an interval is read in one line
_WORDS = ("domain", "questions", "model", "sets", "licences", "not there", "set", "left out, and why")
