"""The report's charts of intervals and of curves, from plain numbers to SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from prune.common.screen.svg import (
    WIDTH,
    Element,
    LogLike,
    Scale,
    add,
    axis_below,
    axis_left,
    band,
    drawing,
    line,
    marker,
    markup,
    padded,
    series_class,
)


@dataclass(frozen=True)
class Dot:
    """An estimate with its 95 % interval, of series number `series`."""

    series: int
    label: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class DotGroup:
    """Dots that belong to one domain and protocol; `title` and `note` stand over them.

    `noise`: half the width of the grey band around zero, None where it was not measured.
    """

    title: str
    note: str
    dots: tuple[Dot, ...]
    noise: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve; `low` and `high` bound its band, both None where there is none."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PlottedCurve:
    """One series: its points by growing x, the level of blind guesses if there is one, and single marks beside it."""

    series: int
    label: str
    points: tuple[CurvePoint, ...]
    chance: float | None = None
    marks: tuple[CurvePoint, ...] = ()


@dataclass(frozen=True)
class Shade:
    """A part of the horizontal axis that stands out, with its name at the top."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class NoiseBand:
    """Values of the vertical axis between which a change is noise."""

    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """How curves are laid out.

    `whole`: the horizontal axis has whole numbers alone; `span`: its ends, those of the points if None. `log_like`: up
    to where from 0 the vertical axis is linear, beyond it is logarithmic; all of it linear if None. `noise`: grey
    bands.
    """

    height: float = 290.0
    whole: bool = True
    span: tuple[float, float] | None = None
    log_like: float | None = None
    shades: tuple[Shade, ...] = ()
    noise: tuple[NoiseBand, ...] = ()


_HEAD, _ROW, _GAP, _FOOT = 18.0, 19.0, 9.0, 42.0


def forest(name: str, title: str, description: str, axis: str, groups: Sequence[DotGroup]) -> Markup:
    """Estimates with intervals, one row each under the heading of its group; a line marks no change (zero).

    Args:
        name: id of the drawing on the page.
        title, description: what a screen reader reads; the numbers stand in a table beside it.
        axis: what is measured, in which unit, and which side is worse.
    """
    ends = [v for g in groups for d in g.dots for v in (d.low, d.high, d.estimate)]
    ends += [end for g in groups if g.noise is not None for end in (-g.noise, g.noise)]
    low, high = padded(ends, include=[0.0])
    bottom = sum(_HEAD + _ROW * len(group.dots) + _GAP for group in groups) + 4
    root = drawing(name, title, description, bottom + _FOOT)
    scale = Scale(low, high, 10, WIDTH - 10)
    tops = [sum(_HEAD + _ROW * len(g.dots) + _GAP for g in groups[:number]) for number in range(len(groups))]
    spans = [(y + _HEAD, y + _HEAD + _ROW * len(g.dots)) for y, g in zip(tops, groups, strict=True)]
    axis_below(root, scale, bottom, axis, up_to=[end for span in spans for end in span])
    for y, (first, last), group in zip(tops, spans, groups, strict=True):
        if group.noise is not None:
            left = scale(-group.noise)
            add(root, "rect", x=left, y=first, width=scale(group.noise) - left, height=last - first, class_="noise")
        add(root, "line", x1=scale(0), x2=scale(0), y1=first, y2=last, class_="zero")
        if y:
            add(root, "line", x1=0, x2=WIDTH, y1=y - 3, y2=y - 3, class_="parting")
        heading = add(root, "text", group.title, x=0, y=y + 13, class_="heading")
        if group.note:
            add(heading, "tspan", group.note, dx=8, class_="note")
        for row, dot in enumerate(group.dots):
            _interval(root, scale, first + _ROW * (row + 0.5), dot)
    return markup(root)


def _interval(root: Element, scale: Scale, y: float, dot: Dot) -> None:
    group = add(root, "g", class_="dot", data_series=dot.label)
    look = f"whisker {series_class(dot.series)}"
    left, right = scale(dot.low), scale(dot.high)
    add(group, "line", x1=left, x2=right, y1=y, y2=y, class_=look)
    for end in (left, right):
        add(group, "line", x1=end, x2=end, y1=y - 4, y2=y + 4, class_=look)
    marker(group, scale(dot.estimate), y, dot.series)


def curves(
    name: str,
    title: str,
    description: str,
    *,
    across: str,
    up: str,
    lines: Sequence[PlottedCurve],
    include: Sequence[float] = (),
    plot: Plot | None = None,
) -> Markup:
    """Lines, each with its band and its markers, and a dotted level for each kind of blind guess.

    `across` and `up` name the axes; `include` are values that the vertical one must hold, such as 0; `plot` lays it
    out, over whole numbers if it is None.
    """
    plot = plot or Plot()
    every = [v for c in lines for p in (*c.points, *c.marks) for v in (p.y, p.low, p.high) if v is not None]
    chances = sorted({round(c.chance, 6) for c in lines if c.chance is not None})
    root = drawing(name, title, description, plot.height)
    top, bottom, left, right = 30.0, plot.height - _FOOT, 44.0, WIDTH - 12
    low, high = padded(every, include=[*include, *chances])
    if include and min(every) >= 0 <= min(include):
        low = max(low, 0.0)
    down = Scale(low, high, bottom, top)
    if plot.log_like:
        down = LogLike.around([*every, *include, *chances], plot.log_like, bottom, top)
    sizes = [p.x for c in lines for p in (*c.points, *c.marks)]
    along = Scale(*(plot.span or (min(sizes), max(sizes))), left + 6, right - 4)
    for noise in plot.noise:
        y, end = (min(max(down(value), top), bottom) for value in (noise.high, noise.low))
        add(root, "rect", x=left, y=y, width=right - left, height=end - y, class_="noise")
    for shade in plot.shades:
        x, end = along(shade.start), along(shade.end)
        add(root, "rect", x=x, y=top, width=end - x, height=bottom - top, class_="shade")
        add(root, "text", shade.label, x=(x + end) / 2, y=top + 13, text_anchor="middle", class_="small")
    axis_left(root, down, left, right, up)
    axis_below(root, along, bottom, across, up_to=[top, bottom], whole=plot.whole)
    if low <= 0 < high:
        add(root, "line", x1=left, x2=right, y1=down(0), y2=down(0), class_="zero")
    for level in chances:
        y = down(level)
        add(root, "line", x1=left, x2=right, y1=y, y2=y, class_="chance")
    for curve in lines:
        group = add(root, "g", class_="curve", data_series=curve.label)
        bound = [p for p in curve.points if p.low is not None and p.high is not None]
        if len(bound) > 1:
            upper = [(along(p.x), down(p.high or 0.0)) for p in bound]
            band(group, upper, [(along(p.x), down(p.low or 0.0)) for p in bound], curve.series)
        spots = [(along(p.x), down(p.y)) for p in curve.points]
        if len(spots) > 1:
            line(group, spots, curve.series)
        for x, y in spots:
            marker(group, x, y, curve.series, size=3.2)
        for p in curve.marks:
            x = along(p.x)
            if p.low is not None and p.high is not None:
                ends = f"whisker {series_class(curve.series)}"
                add(group, "line", x1=x, x2=x, y1=down(p.low), y2=down(p.high), class_=ends)
            add(group, "circle", cx=x, cy=down(p.y), r=7, class_=f"ring {series_class(curve.series)}")
            marker(group, x, down(p.y), curve.series, size=3.2)
    return markup(root)
