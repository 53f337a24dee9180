"""The cliff for people: accuracy and prose loss against the share of layers dropped, and where accuracy falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.billing.cliff import CliffLine, CliffProse, Cliffs
from eval.reports.drawing.charts import CurvePoint, Plot, PlottedCurve, curves
from eval.reports.drawing.sheet import sheet
from eval.reports.model import Figure, Key, Section
from eval.reports.wording.tables import field
from eval.reports.wording.text import NONE
from prune.common.files.outputs import write_text
from prune.common.screen.numbers import plain
from prune.common.screen.svg import chance_key, key
from prune.common.screen.tables import Cell, Table
from prune.common.sizes import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

_ACROSS = "layers dropped, % of all"


def cliff_section(cliffs: Cliffs) -> Section:
    """A chart of each task and of each text; each way to cut has a line, and healed cuts one of their own."""
    every: list[CliffLine | CliffProse] = [*cliffs.lines, *cliffs.prose]
    names = list(dict.fromkeys(map(_line_name, every)))
    tasks = list(dict.fromkeys(_task(line) for line in cliffs.lines))
    figures = [
        _task_figure(task, [line for line in cliffs.lines if _task(line) == task], names, cliffs.layers)
        for task in tasks
    ]
    texts = list(dict.fromkeys(line.text for line in cliffs.prose))
    figures += [_prose_figure(text, [line for line in cliffs.prose if line.text == text], names) for text in texts]
    legend = [Key(name, key(number, dashed=True)) for number, name in enumerate(names)]
    return Section(
        key="cliff",
        title="As layers are dropped",
        lead="One block of layers goes, chosen by each way to cut. Bands are 95 % intervals. The cliff is at the first "
        "size whose accuracy above chance is, by its whole paired interval, less than half of the full model's.",
        findings=tuple(in_words(line, cliffs.layers) for line in cliffs.lines),
        legend=(*legend, *([Key("chance", chance_key())] if cliffs.lines else [])),
        figures=tuple(figures),
        tables=(cliff_table(cliffs),),
        short="Cliff",
    )


def in_words(line: CliffLine, layers: int) -> str:
    """Where the cliff of a line is, of a model of so many layers."""
    name, last = f"{_task(line)}, {_line_name(line)}", line.points[-1].size
    if all(point.retained is None for point in line.points):
        return f"{name}: no cliff can be told, for the full model is hardly above chance."
    if line.cliff is None:
        return f"{name}: no cliff up to {counted(last, 'layer')} of {layers}."
    holds = f"; surely more than half is kept up to {line.holds}" if line.holds else ""
    return f"{name}: the cliff is at {line.cliff} of {layers} layers ({100 * line.cliff / layers:.0f} %){holds}."


def _task_figure(task: str, lines: Sequence[CliffLine], names: Sequence[str], layers: int) -> Figure:
    drawn = [
        PlottedCurve(
            names.index(_line_name(line)),
            _line_name(line),
            tuple(
                CurvePoint(100 * p.share, *(100 * v for v in (p.accuracy.estimate, p.accuracy.low, p.accuracy.high)))
                for p in line.points
            ),
            100 * line.chance,
        )
        for line in lines
    ]
    told = " ".join(in_words(line, layers) for line in lines)
    chart = curves(
        f"cliff-{task.replace(' ', '-')}",
        task,
        f"Accuracy on {task} as layers are dropped. {told}",
        across=_ACROSS,
        up="accuracy, % of questions",
        lines=drawn,
        plot=Plot(whole=False),
    )
    return Figure(task, chart, under=f"{counted(lines[0].n, 'question')}")


def _prose_figure(text: str, lines: Sequence[CliffProse], names: Sequence[str]) -> Figure:
    drawn = [
        PlottedCurve(
            names.index(_line_name(line)),
            _line_name(line),
            tuple(CurvePoint(100 * point.share, point.nats_per_token) for point in line.points),
        )
        for line in lines
    ]
    ends = [f"{line.label} from {line.points[0].y:.2f} to {line.points[-1].y:.2f}" for line in drawn]
    chart = curves(
        f"cliff-prose-{text}",
        text,
        f"Loss on {text} as layers are dropped: {'; '.join(ends)}.",
        across=_ACROSS,
        up="loss on held-out prose, nats a token",
        lines=drawn,
        plot=Plot(whole=False),
    )
    return Figure(f"Prose: {text}", chart, under="the smaller the better")


def _task(line: CliffLine) -> str:
    return f"{line.domain} {line.protocol}"


def _line_name(line: CliffLine | CliffProse) -> str:
    return f"{line.way}, healed" if line.healed else line.way


def cliff_table(cliffs: Cliffs) -> Table:
    """Each line's cliff, and what the full model and the largest cut score."""
    fields = (
        field("Questions", "", lambda line: Cell(_task(line)), words=True),
        field("n", "number of questions", lambda line: Cell(f"{line.n}")),
        field("Chance, %", "accuracy of blind guesses", lambda line: Cell(plain(100 * line.chance, 0))),
        field("Way to cut", "", lambda line: Cell(_line_name(line)), words=True),
        field(
            "Full, %", "accuracy of the full model", lambda line: Cell(plain(100 * line.points[0].accuracy.estimate, 1))
        ),
        field("Sizes", "layers dropped", lambda line: Cell(f"{line.points[1].size} to {line.points[-1].size}")),
        field(
            "Surely holds to",
            "largest size before the cliff that keeps more than half of the accuracy above chance beyond doubt",
            lambda line: Cell(NONE if line.holds is None else f"{line.holds}"),
        ),
        field(
            "Cliff at",
            "first size that keeps less than half of it beyond doubt",
            lambda line: Cell(NONE if line.cliff is None else f"{line.cliff}"),
        ),
        field(
            "Of the layers, %",
            "the cliff as a share",
            lambda line: Cell(
                NONE
                if line.cliff is None
                else plain(next(100 * point.share for point in line.points if point.size == line.cliff), 0)
            ),
        ),
    )
    return Table.from_records("Where the cliff is", cliffs.lines, fields, shared=3, key="cliff")


def prose_table(cliffs: Cliffs) -> Table:
    """Loss on held-out prose, a column for each way to cut."""
    names = list(dict.fromkeys(_line_name(line) for line in cliffs.prose))
    rows = []
    for text in dict.fromkeys(line.text for line in cliffs.prose):
        lines = {_line_name(line): {p.size: p for p in line.points} for line in cliffs.prose if line.text == text}
        for size in sorted({size for points in lines.values() for size in points}):
            cells = [lines.get(name, {}).get(size) for name in names]
            losses = [NONE if point is None else plain(point.nats_per_token, 3) for point in cells]
            rows.append([text, f"{size}", plain(100 * size / cliffs.layers, 0), *losses])
    head = ("Text", "Dropped", "Of the layers, %", *names)
    return Table.of("Loss on held-out prose, nats a token", head, rows, words=("Text",))


def _shown(cliffs: Cliffs) -> list[Table]:
    return [*([cliff_table(cliffs)] if cliffs.lines else []), *([prose_table(cliffs)] if cliffs.prose else [])]


def cliff_markdown(cliffs: Cliffs) -> str:
    """cliff.md: where the cliffs are, then the tables."""
    lines = ["## As layers are dropped", "", *(f"- {in_words(line, cliffs.layers)}" for line in cliffs.lines), ""]
    for table in _shown(cliffs):
        lines += [f"### {table.title}", "", *table.markdown(), "", *([told] if (told := table.legend()) else []), ""]
    return "\n".join(lines)


def cliff_tables(cliffs: Cliffs) -> RenderableType:
    """The cliffs for a terminal; the sentences come last, where the eye is."""
    from rich.console import Group
    from rich.text import Text

    return Group(*_shown(cliffs), *(Text(in_words(line, cliffs.layers)) for line in cliffs.lines))


def write_cliff_figures(cliffs: Cliffs, folder: Path) -> None:
    """Write cliff.svg."""
    write_text(folder / "cliff.svg", sheet(cliff_section(cliffs)))
