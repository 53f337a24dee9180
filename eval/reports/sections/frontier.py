"""The frontier for people: losses against bytes and against speed, and the tables behind the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.billing.frontier import Frontier, FrontierLoss, FrontierPoint, Measure, weight_words
from eval.reports.drawing.charts import CurvePoint, NoiseBand, Plot, PlottedCurve, curves
from eval.reports.drawing.sheet import sheet
from eval.reports.model import Figure, Key, Section
from eval.reports.sections.sweep import TOGETHER
from eval.reports.wording.tables import field
from eval.reports.wording.text import NONE, bounds
from prune.common.files.outputs import write_text
from prune.common.layers import spell_layers
from prune.common.screen.numbers import plain, signed
from prune.common.screen.svg import key, noise_key
from prune.common.screen.tables import Cell, Table

if TYPE_CHECKING:
    from rich.console import RenderableType

_MEASURES: tuple[tuple[Measure, str, str, float, int], ...] = (
    ("accuracy", "Accuracy lost", "points of accuracy lost", 100, 1),
    ("answer_bits_per_byte", "Right answers less likely", "rise of answer NLL, bits per byte", 1, 3),
)


def frontier_section(frontier: Frontier) -> Section:
    """Losses of all cuts against bytes and against speed, task by task; Pareto points have a ring."""
    tasks = list(dict.fromkeys(_task(loss) for loss in frontier.losses))
    groups = [tasks] if len(tasks) <= TOGETHER else [[task] for task in tasks]
    floored = any(loss.noise is not None for loss in frontier.losses)
    legend = [Key(task, key(i, dashed=True)) for i, task in enumerate(tasks)] if len(groups) == 1 else []
    figures = [
        figure
        for measure in _MEASURES
        for group in groups
        for figure in (_figure(frontier, measure, group, tasks, speed=speed) for speed in (False, True))
    ]
    return Section(
        key="frontier",
        title="What each cut loses, and what it gives",
        lead="Bands are 95 % paired intervals against the full model, on the same questions. A ring marks a Pareto "
        "point: no model as small, or as fast, loses less. "
        + "Within the grey band a change may be noise. " * floored
        + f"Speed: {frontier.measured_on}.",
        findings=(frontier.sentence,),
        legend=(*legend, *([Key("noise", noise_key())] if floored else [])),
        figures=tuple(figures),
        tables=(gains_table(frontier), losses_table(frontier)),
        short="Frontier",
    )


def _figure(
    frontier: Frontier,
    measure: tuple[Measure, str, str, float, int],
    group: Sequence[str],
    tasks: Sequence[str],
    *,
    speed: bool,
) -> Figure:
    name, title, up, scale, _ = measure
    lines = []
    for task in group:
        losses = [loss for loss in frontier.losses if loss.measure == name and _task(loss) == task]
        placed = sorted(((_x(frontier.point(loss.model), speed), loss) for loss in losses), key=lambda pair: pair[0])
        points = tuple(_curve_point(x, loss, scale) for x, loss in placed)
        best = [loss.best_of_speed if speed else loss.best_of_bytes for _, loss in placed]
        marks = tuple(point for point, ring in zip(points, best, strict=True) if ring)
        series = 0 if len(group) == 1 else tasks.index(task)
        lines.append(PlottedCurve(series, task, points, None, marks))
    across = "speed of writing, times the full model's" if speed else f"weights, {_unit(frontier)[0]}"
    heading = f"{title}, by {'speed' if speed else 'bytes'}"
    told = "; ".join(f"{line.label}: {_course(frontier, line.label, name, scale)}" for line in lines)
    drawn = curves(
        f"{name.replace('_', '-')}-{'speed' if speed else 'bytes'}-{tasks.index(group[0])}",
        heading,
        f"{heading}. {told}.",
        across=across,
        up=up,
        lines=[_in_units(frontier, line) if not speed else line for line in lines],
        include=[0.0],
        plot=Plot(whole=False, noise=_noise(frontier, name, group, scale)),
    )
    return Figure(heading, drawn, under=group[0] if len(group) == 1 and len(tasks) > 1 else "")


def _noise(frontier: Frontier, measure: Measure, group: Sequence[str], scale: float) -> tuple[NoiseBand, ...]:
    """The widest band of these tasks, around no change."""
    known = [loss.noise for loss in frontier.losses if loss.measure == measure and _task(loss) in group]
    half = scale * max((one for one in known if one is not None), default=0.0)
    return (NoiseBand(-half, half),) if half else ()


def _x(point: FrontierPoint, speed: bool) -> float:
    return point.decode_ratio.median if speed else float(point.weight_bytes)


def _unit(frontier: Frontier) -> tuple[str, int]:
    small = max(point.weight_bytes for point in frontier.points) < 2**31
    return ("MiB", 2**20) if small else ("GiB", 2**30)


def _in_units(frontier: Frontier, line: PlottedCurve) -> PlottedCurve:
    size = _unit(frontier)[1]

    def scaled(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
        return tuple(CurvePoint(p.x / size, p.y, p.low, p.high) for p in points)

    return PlottedCurve(line.series, line.label, scaled(line.points), None, scaled(line.marks))


def _curve_point(x: float, loss: FrontierLoss, scale: float) -> CurvePoint:
    if loss.loss is None:
        return CurvePoint(x, 0.0, 0.0, 0.0)
    return CurvePoint(x, *(scale * value for value in (loss.loss.estimate, loss.loss.low, loss.loss.high)))


def _course(frontier: Frontier, task: str, measure: Measure, scale: float) -> str:
    digits = next(digits for name, *_, digits in _MEASURES if name == measure)
    told = [
        f"{loss.model} {plain(scale * loss.loss.estimate, digits)}"
        for loss in frontier.losses
        if loss.measure == measure and _task(loss) == task and loss.loss is not None
    ]
    return ", ".join(told)


def _task(loss: FrontierLoss) -> str:
    return f"{loss.domain} {loss.protocol}"


def gains_table(frontier: Frontier) -> Table:
    """What each cut gives, and what the policy says of it."""
    fields = (
        field("Model", "", lambda point: Cell(point.model), words=True),
        field("Dropped", "layers of the source", lambda point: Cell(_dropped(point)), words=True),
        field("Weights", "loaded", lambda point: Cell(weight_words(point.weight_bytes), sort=point.weight_bytes)),
        field("Of the full, %", "its bytes", lambda point: Cell(plain(100 * point.weight_ratio, 0))),
        field("KV, kB a token", "of the cache", lambda point: Cell(plain(point.kv_bytes_per_token / 1000, 1))),
        field(
            "Writes, tokens/s",
            frontier.measured_on,
            lambda point: Cell(plain(point.decode_tokens_per_second.median, 1)),
        ),
        field(
            "Times the full",
            "median of the rounds, with the least and the greatest",
            lambda point: Cell(
                plain(point.decode_ratio.median, 2),
                f"[{plain(point.decode_ratio.low, 2)}, {plain(point.decode_ratio.high, 2)}]",
            ),
        ),
        field("Policy", "", lambda point: Cell("" if point.verdict is None else point.verdict.decision), words=True),
    )
    return Table.from_records("What each cut gives", frontier.points, fields, key="frontier-gains")


def _dropped(point: FrontierPoint) -> str:
    return NONE if point.dropped is None else f"{len(point.dropped)} ({spell_layers(point.dropped)})"


def losses_table(frontier: Frontier) -> Table:
    """What each cut loses, task by task, both measures side by side."""
    pairs = [
        (one, other)
        for one in frontier.losses
        for other in frontier.losses
        if one.loss is not None and one.measure == "accuracy" and other.measure != "accuracy"
        if (one.model, _task(one)) == (other.model, _task(other))
    ]
    fields = (
        field("Questions", "", lambda pair: Cell(_task(pair[0])), words=True),
        field("n", "number of questions", lambda pair: Cell(f"{pair[0].n}")),
        field("Model", "", lambda pair: Cell(pair[0].model), words=True),
        field(
            "Accuracy lost, points",
            "with its 95 % paired interval; ? where the full model is not above chance beyond doubt; noise where the "
            "change is no larger than where the full model is asked twice",
            lambda pair: _lost(pair[0], 100, 1, " ?" * pair[0].at_chance),
        ),
        field(
            "Pareto",
            "no model as small (bytes) or as fast (speed) loses less",
            lambda pair: Cell(_best(pair[0])),
            words=True,
        ),
        field("Rise of NLL, bits per byte", "of the right answers", lambda pair: _lost(pair[1], 1, 3)),
        field("Pareto by NLL", "the same by answer NLL", lambda pair: Cell(_best(pair[1])), words=True),
    )
    return Table.from_records("What each cut loses", pairs, fields, shared=2, key="frontier-losses")


def _lost(lost: FrontierLoss, scale: float, digits: int, doubt: str = "") -> Cell:
    loss = lost.loss
    if loss is None:
        return Cell(NONE)
    bound = bounds({"low": loss.low, "high": loss.high}, scale, digits)
    return Cell(signed(scale * loss.estimate, digits), bound + doubt + " noise" * lost.is_noise, loss.estimate)


def _best(loss: FrontierLoss) -> str:
    marks = [name for name, best in (("bytes", loss.best_of_bytes), ("speed", loss.best_of_speed)) if best]
    return ", ".join(marks) or NONE


def frontier_markdown(frontier: Frontier) -> str:
    """frontier.md: the sentence, then the tables."""
    lines = ["## What each cut loses, and what it gives", "", f"**{frontier.sentence}**", ""]
    for table in (gains_table(frontier), losses_table(frontier)):
        lines += [f"### {table.title}", "", *table.markdown(), "", table.legend(), ""]
    return "\n".join(lines)


def frontier_tables(frontier: Frontier) -> RenderableType:
    """The frontier for a terminal; the sentence comes last, where the eye is."""
    from rich.console import Group
    from rich.text import Text

    tables = (gains_table(frontier), losses_table(frontier))
    return Group(*tables, Text(f"{tables[1].legend()}\n", style="dim"), Text(frontier.sentence, style="bold"))


def write_frontier_figures(frontier: Frontier, folder: Path) -> None:
    """Write frontier.svg."""
    write_text(folder / "frontier.svg", sheet(frontier_section(frontier)))
