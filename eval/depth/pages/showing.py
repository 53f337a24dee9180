"""depth.json for a terminal and as depth.md: the same tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from eval.depth.contrasting.contrasts import Contrast, Interaction
from eval.depth.document import DepthRecord, Disagreement, MeasureRow, Third
from eval.reports.wording import tables
from eval.reports.wording.text import NONE
from prune.common.intervals import Interval
from prune.common.screen.numbers import plain
from prune.common.screen.tables import Cell, Column, Table
from prune.common.sizes import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

_DIGITS = {"fast": 2, "using": 2}  # of a measure; of the others, in bits per byte, three
_HINTS = {
    "fast": "NLL of the right answer at once",
    "using": "the same after a worked solution",
    "writing": "of the worked solution itself",
    "control": "of another question's, beside this question",
    "informed": "what a question tells of its own solution: beside another question less beside its own",
}


def depth_tables(document: DepthRecord) -> RenderableType:
    """The document for a terminal of 80 columns; warnings come last."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for table in shown_tables(document):
        parts += [table, Text(f"{table.legend()}\n", style="dim")]
    parts += [Text(line) for line in _way(document)]
    parts += [Text(f"! {line}", style="yellow") for line in document.warnings]
    return Group(*parts)


def markdown(document: DepthRecord) -> str:
    """depth.md: what was removed, warnings, all tables, and how it was measured."""
    name = document.provenance["model"]["model"]
    lines = [f"## What the blocks of {name} are for", "", *_way(document), ""]
    lines += [*(f"- {line}" for line in document.warnings), ""] if document.warnings else []
    for table in shown_tables(document):
        lines += [f"### {table.title}", "", *table.markdown(), "", *([table.legend(), ""] if table.legend() else [])]
    return "\n".join(lines)


def shown_tables(document: DepthRecord) -> Iterator[Table]:
    """The tables, in order."""
    yield full_table(document)
    yield from thirds_tables(document)
    yield from (t for t in (interactions_table(document), measure_interactions_table(document)) if t.rows)
    if document.thinking:
        rows = document.to_json()["thinking"]
        table = tables.thinking_table(rows)
        for title, columns in (
            ("Fast and slow answers in words", tables.GAINS),
            ("What slow thinking corrects and spoils", tables.RATES),
            ("Change against the full model", tables.SHIFTS),
        ):
            yield table.pick(title, columns)
    if document.disagreements:
        yield disagreement_table(document)
        yield agreement_table(document)
    if document.events:
        yield events_table(document)
    if document.similarity is not None:
        yield similarity_table(document)


def full_table(document: DepthRecord) -> Table:
    """What was asked, and what the full model scores on it."""
    rows = []
    values = {(r.domain, r.protocol, r.measure): r for r in document.rows if r.variant == "full"}
    for task in document.tasks:
        cells = [_value(values[task.domain, task.protocol, measure]) for measure in document.measures]
        name = Cell(f"{task.domain} {task.protocol}")
        rows.append((name, tables.many(task.n), tables.count(task.rationales), *cells))
    columns = (
        Column("Questions", words=True),
        Column("n", "number of questions"),
        Column("With", "how many of them have a rationale that is used"),
        *(Column(f"{measure}, {_unit(measure)}", _HINTS[measure]) for measure in document.measures),
    )
    return Table("The full model", columns, tuple(rows), key="full")


def thirds_tables(document: DepthRecord) -> Iterator[Table]:
    """What the median block of each third of the layers costs, a table a size."""
    for size in document.sizes:
        rows: dict[tuple[str, str, str], dict[str, Third]] = {}
        for third in document.thirds:
            if third.size == size:
                rows.setdefault((third.domain, third.protocol, third.measure), {})[third.third] = third
        cells = []
        for (domain, protocol, measure), found in rows.items():
            shown = [_cost(found.get(name), measure) for name in ("shallow", "middle", "deep")]
            cells.append((Cell(f"{domain} {protocol}"), Cell(f"{measure}, {_unit(measure)}"), *shown))
        columns = (
            Column("Questions", words=True),
            Column("Measure", words=True),
            Column("Shallow", "loss by the median block whose middle is in the first third of the layers"),
            Column("Middle", "in the second third"),
            Column("Deep", "in the last third"),
        )
        yield Table(
            f"Loss without a block of {counted(size, 'layer')}", columns, tuple(cells), shared=1, key=f"thirds-{size}"
        )


_FOUND = (
    Column("Deep − shallow", "cost of deep blocks beyond shallow ones, first less second, in costs of the mean block"),
    Column(
        "Seen?",
        "the whole interval above 0: deep blocks cost the first more, shallow blocks the second; intervals are not "
        "corrected for the number of rows",
        words=True,
    ),
    Column("By rank", "the same by the chance that a deep block costs a question more than a shallow one"),
    Column("Would tell", "questions of the first and of the second that would show it, were the estimate true"),
)


def interactions_table(document: DepthRecord) -> Table:
    """Do deep blocks cost the first domain more, and shallow blocks the second?"""
    rows = [
        (
            Cell(f"{row.domains[0]} − {row.domains[1]}"),
            Cell(row.measure),
            Cell(row.protocol),
            tables.count(row.size),
            *_found(row.found),
        )
        for row in document.interactions
    ]
    columns = (
        Column("Domains", words=True),
        Column("Measure", words=True),
        Column("Questions", "choice or generation; both: over all", words=True),
        Column("Size", "layers of a block"),
        *_FOUND,
    )
    return Table("Depth and domain", columns, tuple(rows), shared=1, key="interactions")


def measure_interactions_table(document: DepthRecord) -> Table:
    """Do deep blocks cost chains more than recall?"""
    rows = [
        (
            Cell(f"{row.domain} {row.protocol}"),
            Cell(" − ".join(row.measures)),
            tables.count(row.size),
            *_found(row.found),
        )
        for row in document.measure_interactions
    ]
    columns = (
        Column("Questions", words=True),
        Column("Measures", words=True),
        Column("Size", "layers of a block"),
        *_FOUND,
    )
    return Table("Depth and measure, on the same questions", columns, tuple(rows), shared=1, key="measure-interactions")


def _found(found: Interaction) -> tuple[Cell, ...]:
    needed = found.relative.questions_needed
    return (
        _contrast(found.relative),
        Cell(found.verdict),
        _contrast(found.rank),
        Cell(NONE if needed is None else f"{needed[0]:,} / {needed[1]:,}"),
    )


def _contrast(contrast: Contrast) -> Cell:
    return Cell(NONE) if contrast.value is None else tables.difference(vars(contrast.value), 1, 2)


def events_table(document: DepthRecord) -> Table:
    """From which size of the deepest block on each measure has changed."""
    rows = [
        (
            Cell(found.domain),
            Cell(" before ".join(_EVENTS[event.measure] for event in (order.first, order.second))),
            *(tables.count(event.reached) for event in (order.first, order.second)),
            _share(order.first_earlier),
            _share(order.second_earlier),
            Cell(order.verdict, order.note),
        )
        for found in document.events
        for order in (found.overthinking, found.knowledge)
    ]
    columns = (
        Column("Questions", words=True),
        Column("Order", "which is claimed to go first", words=True),
        Column("First at", "smallest block from which on the first has changed by 5 points"),
        Column("Second at", "the same of the second"),
        Column("First, %", "resamples of the questions in which the first is earlier"),
        Column("Second, %", "resamples in which the second is"),
        Column("Verdict", words=True),
    )
    return Table("What goes first as the deepest block grows", columns, tuple(rows), shared=1, key="events")


_EVENTS = {"r_o": "r_o up", "r_c": "r_c down", "a_fast": "A_fast down", "delta": "δ down"}


def similarity_table(document: DepthRecord) -> Table:
    """Whether the states of fast and slow prompts grow unlike with depth."""
    found = document.similarity
    assert found is not None
    rows = []
    for curve in (*found.domains, *found.over_all):
        drop = curve.late_less_early
        shown = Cell(NONE) if drop is None else tables.difference(vars(drop), 1, 3)
        name = f"{curve.domain or 'all domains'} {curve.protocol}"
        rows.append((Cell(name), tables.many(curve.n), shown, Cell(curve.declines)))
    columns = (
        Column("Questions", words=True),
        Column("n", "number of questions"),
        Column("Late − early", "mean CKA over the last third of the layers less that over the first third"),
        Column("Declines?", "whether fast and slow states grow unlike with depth", words=True),
    )
    return Table("Likeness of fast and slow states", columns, tuple(rows), key="similarity")


def disagreement_table(document: DepthRecord) -> Table:
    """Where the change of likelihood and that of written answers agree, and where not."""
    rows = [
        (Cell(f"{r.domain} {r.protocol}"), Cell(r.variant), Cell(r.mode), _bits(r.nll), _points(r), Cell(r.verdict))
        for r in document.disagreements
    ]
    columns = (
        Column("Questions", words=True),
        Column("Block", "n@start", words=True),
        Column("Answers", "fast or slow", words=True),
        Column("Δ NLL, bits", "change of the right answer's NLL"),
        Column("Δ accuracy, points", "change of accuracy by written answers"),
        Column("A loss by", "which of the two is a loss for certain", words=True),
    )
    return Table("Likelihood against written answers", columns, tuple(rows), shared=1, key="disagreements")


def agreement_table(document: DepthRecord) -> Table:
    """Whether likelihood orders blocks as accuracy does."""
    rows = [
        (
            Cell(f"{row.domain} {row.protocol}"),
            Cell(row.mode),
            tables.count(row.blocks),
            Cell(NONE) if row.spearman != row.spearman else tables.number(row.spearman, 2),
        )
        for row in document.agreement
    ]
    columns = (
        Column("Questions", words=True),
        Column("Answers", "fast or slow", words=True),
        Column("Blocks", "how many were ordered"),
        Column("Spearman", "correlation of ranks, rise of NLL against fall of accuracy"),
    )
    return Table("Does likelihood order the blocks as accuracy does?", columns, tuple(rows), key="agreement")


def blocks_table(document: DepthRecord, measure: str) -> Table:
    """Every block's change of one measure, for the page."""
    changes: dict[str, list[MeasureRow]] = {}
    for row in document.rows:
        if row.measure == measure and row.variant != "full":
            changes.setdefault(row.variant, []).append(row)
    tasks = [f"{task.domain} {task.protocol}" for task in document.tasks]
    digits = _DIGITS.get(measure, 3)
    rows = [
        (
            Cell(variant.label),
            tables.count(variant.n),
            tables.count(variant.start),
            *(
                tables.change(_interval(row.change), 1, digits, worse_above=measure != "informed")
                for row in changes[variant.label]
            ),
        )
        for variant in document.variants[1:]
    ]
    columns = (
        Column("Block", "n@start", words=True),
        Column("Layers", "how many are taken out"),
        Column("First", "the first of them, from 0"),
        *(Column(f"Δ {task}, {_unit(measure)}", f"change of {_HINTS[measure]}") for task in tasks),
    )
    return Table(f"{measure}: every block", columns, tuple(rows), key=f"blocks-{measure}")


def _unit(measure: str) -> str:
    return "bits" if measure in _DIGITS else "bits/byte"


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else vars(interval)


def _value(row: MeasureRow) -> Cell:
    return tables.score(_interval(row.value), 1, _DIGITS.get(row.measure, 3))


def _cost(third: Third | None, measure: str) -> Cell:
    cost = None if third is None else _interval(third.cost)
    return tables.change(cost, 1, _DIGITS.get(measure, 3), worse_above=True)


def _share(value: float) -> Cell:
    return Cell(NONE) if math.isnan(value) else tables.share(value)


def _bits(interval: Interval) -> Cell:
    return tables.change(_interval(interval), 1, 2, worse_above=True)


def _points(row: Disagreement) -> Cell:
    return tables.change(_interval(row.accuracy), 100, 1, worse_above=False)


def _way(document: DepthRecord) -> list[str]:
    """What was removed and how it was read, each in a line."""
    sizes = ", ".join(map(str, document.sizes))
    starts = "every start" if document.starts == "every" else f"{document.starts} at even distances"
    how = document.how
    return [
        f"Of {document.layers} layers, blocks of {sizes} are taken out, each by itself: {starts}, "
        f"{len(document.variants) - 1} blocks in all.",
        f"{how.layer_passes} layer passes, {plain(how.relative_passes, 1)} times one model, "
        f"over {how.tokens:,} tokens.",
    ]
