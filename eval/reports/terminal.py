"""A comparison, a run or a sweep for a terminal of 80 columns, and comparison.md: the same tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eval.billing.judging.verdict import GO, NO_GO
from eval.reports.sections.gains import PARTS, gains_notes, gains_table, measured_how, plain_lines
from eval.reports.sections.limits import shown_limits, verdict_lines
from eval.reports.sections.noise import noise_line, noise_table, nothing_lost
from eval.reports.sections.sweep import SIZES, sizes_table
from eval.reports.wording import tables
from eval.reports.wording.interactions import clearest
from eval.reports.wording.text import comparison_title, task_name, worst_loss
from eval.reports.wording.weights import weights_line
from prune.common.screen.tables import Table

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]


def comparison_table(document: Document) -> RenderableType:
    """The document of comparison.json for a terminal; the verdict comes last, where the eye is."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(line, style="bold") for line in plain_lines(document)]
    parts += [*_tables(document, full=document["models"][0]["label"]), Text(weights_line(document))]
    parts += [Text(line) for line in _noise(document)]
    parts += [Text(f"! {line}", style="yellow") for line in gains_notes(document)]
    parts += [Text(f"! {line}", style="yellow") for line in document["warnings"]]
    if document["verdict"]:
        parts += [Text(line) for line in verdict_lines(document["verdict"])]
        style = {GO: "bold green", NO_GO: "bold red"}.get(document["verdict"]["decision"], "bold yellow")
        parts.append(Text(f"Verdict: {document['verdict']['sentence']}.", style=style))
    return Group(*parts)


def _noise(document: Document) -> list[str]:
    """The noise floor, and the models whose every change lies within it."""
    told = [noise_line(document), *(nothing_lost(document, model["label"]) for model in document["models"][1:])]
    return [line for line in told if line]


def run_tables(document: Document) -> RenderableType:
    """One model's document (`describe_run`) for a terminal."""
    from rich.console import Group
    from rich.text import Text

    warnings = [Text(f"! {line}", style="yellow") for line in document["warnings"]]
    return Group(*_tables(document, full=document["model"]["label"]), Text(weights_line(document)), *warnings)


def _tables(document: Document, full: str) -> Iterator[RenderableType]:
    """Each table, the wide ones in parts of a terminal's width, and how to read it."""
    from rich.text import Text

    of = "" if "models" in document else f" of {full}"
    if document.get("gains") and document["gains"]["models"]:
        gains = document["gains"]
        yield from _parts(gains_table(gains), *PARTS)
        yield Text(f"{measured_how(gains)}\n", style="dim")
    if document["rows"]:
        table = tables.domain_table(document["rows"])
        yield from _parts(table, (f"Scores{of}", tables.SCORES), (f"Change against {full}", tables.CHANGES))
        if told := smallest_losses(document["rows"]):
            yield Text(told)
        yield Text(f"{table.legend()}\n", style="dim")
    if document["thinking"]:
        table = tables.thinking_table(document["thinking"])
        yield from _parts(
            table,
            (f"{table.title}{of}", tables.GAINS),
            ("What slow thinking corrects and spoils", tables.RATES),
            ("Change of fast and slow thinking", tables.SHIFTS),
        )
        yield Text(f"{table.legend()}\n", style="dim")
    if document["prose"]:
        yield from _parts(tables.prose_table(document["prose"]), ("Held-out prose, loss", tables.PROSE))
    if document["needles"]:
        table = tables.needles_table(document["needles"])
        yield from _parts(table, (table.title, [column.heading for column in table.columns]))
        yield Text(f"{table.legend()}\n", style="dim")
    if document["tasks"]:
        yield tables.tasks_table(document["tasks"])
    for table, rest in _interactions(document, full):
        shown = table.pick(table.title, [column.heading for column in table.columns if column.heading != "In words"])
        yield shown
        yield Text(f"{shown.legend()}{rest}\n", style="dim")


def _parts(table: Table, *parts: tuple[str, Sequence[str]]) -> Iterator[Table]:
    """Some columns at a time; the title names the model where there is one alone."""
    column = [column.heading for column in table.columns].index("Model")
    single = len({str(row[column]) for row in table.rows}) == 1
    for title, headings in parts:
        part = table.pick(title, [heading for heading in headings if not single or heading != "Model"])
        if part.rows:
            yield part


def _interactions(document: Document, full: str) -> Iterator[tuple[Table, str]]:
    """Differences between domains, the clearest where they are many, and what is said of the rest."""
    kinds = (
        ("interactions", ("accuracy", "answer_nll_bits_per_byte"), tables.interactions_table),
        (
            "thinking_interactions",
            ("a_fast", "a_slow", "delta"),
            lambda rows: tables.thinking_interactions_table(rows, document["thinking"], full),
        ),
    )
    for key, measures, table in kinds:
        rows = document.get(key) or []
        shown = clearest(rows, measures)
        rest = f" {len(shown)} of {len(rows)} pairs: the clearest; all are in comparison.json."
        if shown:
            yield table(shown), rest if len(shown) < len(rows) else ""


def smallest_losses(rows: Sequence[Document]) -> str:
    """How large a loss of accuracy must be to show beyond doubt, by domain and protocol; "" where nothing is compared.

    It is the upper half of the paired interval, that of the model whose interval is widest: a loss of more points than
    that has an interval that excludes 0.
    """
    widths: dict[str, float] = {}
    for row in rows:
        if row["versus"]:
            change, name = row["versus"]["accuracy_difference"], task_name(row)
            widths[name] = max(widths.get(name, 0.0), change["high"] - change["estimate"])
    if not widths:
        return ""
    told = ", ".join(f"{name} {100 * width:.0f}" for name, width in widths.items())
    return f"Smallest loss of accuracy that these questions could show, in points: {told}. More questions show less."


def markdown(document: Document) -> str:
    """comparison.md: the verdict, all tables, and how it was measured."""
    lines = [f"## {comparison_title(document)}", ""]
    if document["verdict"]:
        lines += [f"**Verdict: {document['verdict']['sentence']}.**", ""]
        lines += [*(f"- {line}" for line in verdict_lines(document["verdict"])), ""]
    elif told := worst_loss(document["rows"]):
        lines += [f"**{told}**", ""]
    lines += [*(f"- {line}" for line in plain_lines(document)), ""]
    lines += [weights_line(document), "", *(part for line in _noise(document) for part in (line, ""))]
    lines += [*(f"- {note}" for note in gains_notes(document)), ""] if gains_notes(document) else []
    lines += [*(f"- {warning}" for warning in document["warnings"]), ""] if document["warnings"] else []
    gains = document["gains"]
    if gains is not None and gains["models"]:
        table = gains_table(gains)
        lines += [f"### {table.title}", "", *table.markdown(), "", measured_how(gains), ""]
    shown = [
        builder(document[key])
        for key, builder in (
            ("rows", tables.domain_table),
            ("thinking", tables.thinking_table),
            ("prose", tables.prose_table),
            ("needles", tables.needles_table),
            ("tasks", tables.tasks_table),
        )
        if document[key]
    ]
    if document["noise"] and document["noise"]["rows"]:
        shown.append(noise_table(document["noise"]["rows"]))
    shown += shown_limits(document)
    pairs = list(_interactions(document, document["models"][0]["label"]))
    for table, rest in [*((table, "") for table in shown), *pairs]:
        lines += [f"### {table.title}", "", *table.markdown(), "", *([rest.strip(), ""] if rest else [])]
    lines += [told, ""] if (told := smallest_losses(document["rows"])) else []
    lines += ["<details><summary>How it was measured, and how to read it</summary>", ""]
    lines += [f"{_how(document['models'][0]['settings'])}.", ""]
    for table in (*shown, *(table for table, _ in pairs)):
        lines += [f"**{table.title}** {table.legend()}", ""]
    return "\n".join([*lines, "</details>", ""])


def _how(settings: Document) -> str:
    """In one line, how it was asked."""
    chat = "with" if settings["chat_template"] else "without"
    shots = f", {settings['few_shot']} examples" if settings["few_shot"] else ""
    return (
        f"Measured in {settings['dtype']} on {settings['device']} by {settings['backend']}, batch size "
        f"{settings['batch_size']}, seed {settings['seed']}, {chat} the chat template{shots}"
    )


def sweep_tables(document: Document) -> RenderableType:
    """The document of sweep.json for a terminal: each size, task by task."""
    from rich.console import Group
    from rich.text import Text

    asked = {task_name(task): task["n"] for task in document["tasks"]}
    parts: list[RenderableType] = []
    for curve in document["curves"]:
        name = task_name(curve)
        chance = "" if curve["chance"] is None else f", chance {100 * curve['chance']:.0f} %"
        one_task = sizes_table({**document, "curves": [curve]})
        parts.append(one_task.pick(f"{name}: {asked[name]} questions{chance}", SIZES))
    parts += [Text(f"Starts: {_starts(document)}."), Text(_way(document["how"])), Text(weights_line(document))]
    parts += [Text(note) for note in document["notes"]]
    return Group(*parts, Text(f"{sizes_table(document).legend()}\n", style="dim"))


def _starts(document: Document) -> str:
    """How the start of each size was chosen: a warning where it was on the very questions that are shown."""
    rules = {
        "best": "each size at the scan's best start",
        "deepest": "each size at its deepest start, the last layer kept",
    }
    other = "each size at its cheapest start, all domains alike, chosen on these very questions"
    return rules.get(document["starts"], other) if isinstance(document["starts"], str) else other


def _way(how: Document) -> str:
    tree = how["path"] == "tree"
    shared = "contexts shared by a question's choices" if tree else f"contexts not shared: {how['why']}"
    return (
        f"{how['layer_passes']} layer passes, {how['relative_passes']:.2f} times one model, over {how['tokens']:,} "
        f"tokens ({how['tokens_one_by_one']:,} request by request; {shared})."
    )
