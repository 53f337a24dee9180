"""The bill as tables: rich for the terminal, Markdown for a pull request. Both show the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eval.billing.bill import ProseRow, Row, Versus, prose_row_from, row_from
from eval.billing.interactions import Interaction, interaction_from
from eval.billing.statistics import Interval
from eval.billing.tasks import TaskRow, task_row_from
from eval.billing.verdict import GO, NO_GO
from eval.reports.rich_tables import legend, rich_table
from eval.reports.text import p_value, worst_loss
from prune.common.tables import markdown_table

if TYPE_CHECKING:
    from rich.console import RenderableType

SCORES = ("questions", "n", "chance", "model", "accuracy, %", "plain", "NLL, bits", "unparsed")
CHANGES = ("Δ acc., points", "Δ NLL, bits", "p", "flips", "kept, %")
PROSE = ("text", "model", "bits / byte", "Δ bits / byte", "nats / token", "Δ nats / token")
_PROSE_SHOWN = 5  # columns of it on a terminal
INTERACTIONS = ("loss in A - loss in B", "model", "points", "bits / byte")
TASKS = ("task", "metric", "model", "n", "value", "Δ", "p", "flips")
SHOWN = 12  # interactions; of more, those whose interval excludes 0, the clearest first

HOW_TO_READ = (
    "Accuracy: the choice of highest log-likelihood per character, or the exact number; `plain` takes the highest "
    "log-likelihood as it is. NLL: -log2 p(gold answer | question), mean per answer: longer answers have more, so that "
    "rows of two domains do not compare; it moves where accuracy sits at chance. Δ: to the full model on the same "
    "questions, with its 95 % paired interval, clustered where questions share a passage. p: exact McNemar, "
    "Holm-corrected over the rows of a model. Flips: questions lost / gained. Kept: "
    "accuracy above chance as a share of the full model's; – where that is not above chance, ? where its 95 % interval "
    "reaches down to chance, so that a share would be noise. Unparsed answers count as wrong."
)
HOW_INTERACTIONS = (
    "Loss in A minus loss in B of the same model, with its 95 % interval: above 0, A loses more than B. Points of "
    "accuracy lost, and bits of answer NLL gained per byte of the right answers, for answers differ in length from "
    "domain to domain. ?: the full model is at chance in one of the two, so its accuracy "
    "has nothing to lose; read the bits. Intervals are not corrected for the number of pairs."
)


def score_cells(row: Row) -> list[str]:
    """What one model scored."""
    return [
        f"{row.domain} {row.protocol}",
        f"{row.n}" + (" (few)" if row.few else ""),
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
    return [
        _signed(versus.accuracy_difference, 100, 1, bounds=0),
        _signed(versus.answer_nll_bits_difference, 1, 2),
        p_value(versus.mcnemar_p_holm),
        f"{versus.lost}/{versus.gained}",
        _kept(versus),
    ]


def _kept(versus: Versus) -> str:
    if versus.retained_above_chance is None:
        return "–"
    if not versus.full_above_chance:
        return "?"
    share, found = f"{100 * versus.retained_above_chance:.0f}", versus.retained_interval
    return share if found is None else f"{share} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def smallest_losses(rows: Sequence[Row]) -> str:
    """How large a loss of accuracy must be to show beyond doubt, by domain and protocol; "" where nothing is compared.

    It is the upper half of the paired interval, that of the model whose interval is widest: a loss of more points than
    that has an interval that excludes 0.
    """
    widths: dict[str, float] = {}
    for row in rows:
        if row.versus is not None:
            found, name = row.versus.accuracy_difference, f"{row.domain} {row.protocol}"
            widths[name] = max(widths.get(name, 0.0), found.high - found.estimate)
    if not widths:
        return ""
    told = ", ".join(f"{name} {100 * width:.0f}" for name, width in widths.items())
    return f"Smallest loss of accuracy that these questions could show, in points: {told}. More questions show less."


def prose_cells(row: ProseRow) -> list[str]:
    """Held-out loss of one model."""
    changes = [
        "" if found is None else _signed(found, 1, 3) for found in (row.difference_bits_per_byte, row.difference)
    ]
    return [row.text, row.model, f"{row.bits_per_byte:.3f}", changes[0], f"{row.nats_per_token:.3f}", changes[1]]


def interaction_cells(one: Interaction) -> list[str]:
    """How much more one domain lost than another."""
    return [
        f"{one.domains[0]} - {one.domains[1]}, {one.protocol}",
        one.model,
        _signed(one.accuracy, 100, 1, bounds=0) + (" ?" if one.at_chance else ""),
        _signed(one.nll, 1, 3),
    ]


def task_cells(row: TaskRow) -> list[str]:
    """One model on one task of lm-eval, in the unit of its metric."""
    metric = row.metric if row.filter == "none" else f"{row.metric}, {row.filter}"
    return [
        row.task + (" (group)" if row.group else ""),
        metric,
        row.model,
        str(row.n),
        f"{row.value:.3f}",
        "" if row.difference is None else _signed(row.difference, 1, 3),
        "" if row.mcnemar_p is None else p_value(row.mcnemar_p),
        "" if row.lost is None else f"{row.lost}/{row.gained}",
    ]


def shown_interactions(found: Sequence[Interaction]) -> tuple[list[Interaction], str]:
    """Those that a table holds, and what it says of the rest: of many pairs only those whose interval excludes 0."""
    if len(found) <= SHOWN:
        return list(found), ""
    clear = sorted((one for one in found if one.clear), key=_clearness, reverse=True)[:SHOWN]
    return clear, f"{len(clear)} of {len(found)} pairs: the clearest; all are in comparison.json."


def _clearness(one: Interaction) -> float:
    def ratio(found: Interval) -> float:
        width = found.high - found.low
        return abs(found.estimate) / width if width > 0 else 0.0

    return max(ratio(one.accuracy), ratio(one.nll))


def _percent_interval(found: Interval) -> str:
    return f"{100 * found.estimate:.1f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _signed(found: Interval, scale: float, digits: int, *, bounds: int | None = None) -> str:
    bounds = digits if bounds is None else bounds
    return f"{scale * found.estimate:+.{digits}f} [{scale * found.low:+.{bounds}f}, {scale * found.high:+.{bounds}f}]"


def markdown(document: dict[str, Any]) -> str:
    """comparison.md: verdict, table, thinking, prose, tasks, and at its end the interactions and how to read it all."""
    from eval.reports.thinking_terminal import thinking_markdown

    labels = [model["label"] for model in document["models"]]
    lines = [f"## What the cut costs: {', '.join(labels[1:])} against {labels[0]}", ""]
    if document["verdict"]:
        lines += [f"**Verdict: {document['verdict']['sentence']}.**", ""]
    elif told := worst_loss(document["rows"]):
        lines += [f"**{told}**", ""]
    lines += [*(f"- {warning}" for warning in document["warnings"]), ""] if document["warnings"] else []
    rows = [row_from(raw) for raw in document["rows"]]
    if rows:
        lines += markdown_table((*SCORES, *CHANGES), [score_cells(r) + change_cells(r) for r in rows])
        lines += ["", told] if (told := smallest_losses(rows)) else []
    lines += thinking_markdown(document["thinking"])
    for title, head, cells in _parts(document):
        lines += ["", f"{title}:", "", *markdown_table(head, cells)]
    interactions = [interaction_from(raw) for raw in document["interactions"]]
    if interactions:
        shown, rest = shown_interactions(interactions)
        lines += ["", "Does one domain lose more than another?", ""]
        lines += [*markdown_table(INTERACTIONS, [interaction_cells(one) for one in shown]), "", HOW_INTERACTIONS]
        lines += ["", rest] if rest else []
    lines += ["", "<details><summary>How it was measured, and how to read it</summary>", "", f"{_how(document)}.", ""]
    return "\n".join([*lines, *([HOW_TO_READ, ""] if rows else []), "</details>", ""])


def _parts(document: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Tables that look alike everywhere: title, head, cells."""
    from eval.reports.thinking_terminal import INTERACTIONS_HEAD, thinking_interaction_cells

    parts: list[tuple[str, tuple[str, ...], list[list[str]]]] = []
    if cells := thinking_interaction_cells(document, shown=SHOWN):
        parts.append(("Fast and slow: loss in one domain minus that in another", INTERACTIONS_HEAD, cells))
    if document["prose"]:
        parts.append(("Held-out prose", PROSE, [prose_cells(prose_row_from(raw)) for raw in document["prose"]]))
    if document["tasks"]:
        parts.append(("Tasks of lm-eval", TASKS, [task_cells(task_row_from(raw)) for raw in document["tasks"]]))
    return parts


def _more_tables(document: dict[str, Any]) -> list[RenderableType]:
    parts = [
        (title, head[:_PROSE_SHOWN], [line[:_PROSE_SHOWN] for line in cells]) if head is PROSE else (title, head, cells)
        for title, head, cells in _parts(document)
    ]
    return [rich_table(*part) for part in parts]


def _how(document: dict[str, Any]) -> str:
    """In one line, how it was asked."""
    first = document["models"][0]["settings"] if "models" in document else document["settings"]
    chat = "with" if first["chat_template"] else "without"
    shots = f", {first['few_shot']} examples" if first["few_shot"] else ""
    return (
        f"{first['dtype']} on {first['device']} by {first['backend']}, batch size {first['batch_size']}, "
        f"seed {first['seed']}, {chat} the chat template{shots}"
    )


def comparison_table(document: dict[str, Any]) -> RenderableType:
    """The document of comparison.json for a terminal; the verdict comes last, where the eye is."""
    from rich.console import Group
    from rich.text import Text

    from eval.reports.thinking_terminal import thinking_tables

    parts: list[Any] = []
    rows = [row_from(raw) for raw in document["rows"]]
    if rows:
        parts += [
            rich_table("Scores", _GROUPED_SCORES, _grouped_scores(rows)),
            rich_table(
                f"Change against {document['models'][0]['label']} (95 % paired intervals)",
                ("model", *CHANGES),
                _grouped_changes(rows),
            ),
            Text(smallest_losses(rows)),
            legend(HOW_TO_READ),
        ]
    parts += thinking_tables(document["thinking"])
    parts += _more_tables(document)
    interactions = [interaction_from(raw) for raw in document["interactions"]]
    if interactions:
        shown, rest = shown_interactions(interactions)
        title = "Does one domain lose more than another?"
        parts.append(rich_table(title, INTERACTIONS, [interaction_cells(one) for one in shown]))
        parts.append(legend(f"{HOW_INTERACTIONS} {rest}".rstrip()))
    parts += [Text(f"! {line}", style="yellow") for line in document["warnings"]]
    if document["verdict"]:
        style = {GO: "bold green", NO_GO: "bold red"}.get(document["verdict"]["decision"], "bold yellow")
        parts.append(Text(f"Verdict: {document['verdict']['sentence']}.", style=style))
    return Group(*parts)


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
    from rich.text import Text

    from eval.reports.thinking_terminal import thinking_tables

    rows = [row_from(raw) for raw in document["rows"]]
    parts: list[Any] = [rich_table("Scores", SCORES, [score_cells(row) for row in rows])] if rows else []
    parts += thinking_tables(document["thinking"])
    parts += _more_tables(document)
    return Group(*parts, *(Text(f"! {line}", style="yellow") for line in document["warnings"]))
