"""Figures by depth: what removing each block costs, where two domains differ, how alike fast and slow states are.

Each is a section of a page, with its legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.depth.contrasting.contrasts import Interaction, in_words
from eval.depth.contrasting.interaction import DEEP, SHALLOW
from eval.reports.drawing.charts import CurvePoint, Plot, PlottedCurve, Shade, curves
from eval.reports.model import Figure, Key, Section
from eval.reports.wording.text import listed
from prune.common.intervals import Interval
from prune.common.screen.numbers import bracketed, signed
from prune.common.screen.svg import key
from prune.common.sizes import counted

_WIDE = 20.0  # times the smallest visible cost; where the largest is more, the axis is log-like
_SHADES = (Shade(0.0, SHALLOW, "shallow"), Shade(DEEP, 1.0, "deep"))


@dataclass(frozen=True)
class RemovalCurve:
    """What removing the block of `size` layers at each start costs the questions of a domain.

    Attributes:
        measure: such as "answer, asked at once"; curves of one measure and size share a panel.
        unit: of the costs, such as "bits per answer".
        starts: first layer of each block, from 0.
        costs: mean cost of each, with its interval.
    """

    domain: str
    measure: str
    unit: str
    size: int
    starts: Sequence[int]
    costs: Sequence[Interval]


@dataclass(frozen=True)
class AlikeCurve:
    """How alike the states of fast and slow prompts are after each layer (linear CKA, 0 to 1), in a domain.

    Attributes:
        panel: what is compared, such as "layer outputs, last token"; curves of one share a panel.
        values: one of each layer, from layer 0, with its interval.
    """

    domain: str
    panel: str
    values: Sequence[Interval]


def removal_section(removed: Sequence[RemovalCurve]) -> Section:
    """A panel for each measure and size, in the order in which they come: a line with its 95 % band for each domain."""
    domains = list(dict.fromkeys(curve.domain for curve in removed))
    panels = list(dict.fromkeys((curve.measure, curve.size) for curve in removed))
    figures = []
    for number, (measure, size) in enumerate(panels):
        shown = [curve for curve in removed if (curve.measure, curve.size) == (measure, size)]
        lines = [_line(curve.domain, domains, curve.starts, curve.costs) for curve in shown]
        linear = _linear_up_to([cost.estimate for curve in shown for cost in curve.costs])
        chart = curves(
            f"removal-{number}",
            f"{measure}, {counted(size, 'layer')} removed",
            _told(lines, "first removed layer", shown[0].unit),
            across="first removed layer (0-based)",
            up=f"{shown[0].unit} lost" + (f", log-like above {linear:g}" if linear else ""),
            lines=lines,
            include=[0.0],
            plot=Plot(log_like=linear),
        )
        figures.append(Figure(measure, chart, under=f"{counted(size, 'layer')} removed at a time"))
    return Section(
        key="removal",
        title="What removing a block of layers costs, by its place",
        lead="Bits by which the right text gets less likely without the block: mean over the questions of a domain, "
        "with 95 % bands. Higher is worse.",
        legend=_legend(domains),
        figures=tuple(figures),
        short="Removal",
    )


def contrast_section(found: Sequence[Interaction], names: Sequence[str]) -> Section:
    """A panel for each contrast, named so, with the difference of relative costs by depth; none where there are none.

    Raises:
        ValueError: none of them has relative costs.
    """
    figures = []
    for number, (contrast, name) in enumerate(zip(found, names, strict=True)):
        if not contrast.profile:
            continue
        points = [
            CurvePoint(block.depth, block.difference.estimate, block.difference.low, block.difference.high)
            for block in contrast.profile
        ]
        title = f"{contrast.first} less {contrast.second}"
        chart = curves(
            f"contrast-{number}",
            f"{name}: {title}",
            in_words(contrast),
            across="middle of the removed block, share of all layers",
            up="difference of relative costs",
            lines=[PlottedCurve(0, title, tuple(points))],
            include=[0.0],
            plot=Plot(whole=False, span=(0.0, 1.0), shades=_SHADES),
        )
        left_out = len(contrast.left_out)
        gone = (f"{counted(left_out, 'block')} left out",) if left_out else ()
        figures.append(Figure(title, chart, under=name, facts=(_verdict(contrast), *gone)))
    if not figures:
        raise ValueError("no contrast has relative costs to draw")
    return Section(
        key="contrast",
        title="Where two domains differ",
        lead="A block's cost relative to the domain's mean block, first domain less second. Above zero the block "
        "matters more to the first. The bands of a panel hold for all its blocks at once (95 %). Below a panel: deep "
        "blocks less shallow ones.",
        findings=tuple(in_words(contrast) for contrast in found),
        figures=tuple(figures),
        short="Contrast",
    )


def alike_section(alike: Sequence[AlikeCurve]) -> Section:
    """Linear CKA between fast and slow prompts by layer: a panel for each kind of state, a line for each domain."""
    domains = list(dict.fromkeys(curve.domain for curve in alike))
    figures = []
    for number, panel in enumerate(dict.fromkeys(curve.panel for curve in alike)):
        shown = [curve for curve in alike if curve.panel == panel]
        lines = [_line(curve.domain, domains, range(len(curve.values)), curve.values) for curve in shown]
        chart = curves(
            f"alike-{number}",
            panel,
            _told(lines, "layer", "CKA"),
            across="layer (0-based)",
            up="linear CKA, fast against slow",
            lines=lines,
        )
        figures.append(Figure(panel, chart))
    return Section(
        key="alike",
        title="How alike the states of fast and slow prompts are, by layer",
        lead="Linear CKA of the same questions, asked at once and with a chain of thought: 1 is the same "
        "but for rotation and scale. Bands are 95 %.",
        legend=_legend(domains),
        figures=tuple(figures),
        short="CKA",
    )


def _line(domain: str, domains: Sequence[str], places: Sequence[int], values: Sequence[Interval]) -> PlottedCurve:
    points = [CurvePoint(x, v.estimate, v.low, v.high) for x, v in zip(places, values, strict=True)]
    return PlottedCurve(domains.index(domain), domain, tuple(points))


def _linear_up_to(costs: Sequence[float]) -> float | None:
    """The power of ten below the usual small cost, where the largest is far above it; None for a linear axis."""
    sizes = np.abs(np.asarray(costs))
    small = float(np.quantile(sizes, 0.25))
    if small <= 0 or sizes.max() <= _WIDE * small:
        return None
    return float(10.0 ** np.floor(np.log10(small)))


def _legend(domains: Sequence[str]) -> tuple[Key, ...]:
    return tuple(Key(domain, key(index, dashed=True)) for index, domain in enumerate(domains))


def _told(lines: Sequence[PlottedCurve], across: str, unit: str) -> str:
    """For a screen reader: of each line its highest and its lowest point."""
    told = []
    for line in lines:
        most, least = (choose(line.points, key=lambda p: p.y) for choose in (max, min))
        told.append(f"{line.label} from {least.y:.3g} at {least.x:g} to {most.y:.3g} at {most.x:g}")
    return f"{unit} by {across}: {listed(told)}."


def _verdict(contrast: Interaction) -> str:
    value = contrast.relative.value
    if value is None:
        return contrast.verdict
    numbers = f"{signed(value.estimate, 2)} {bracketed(value.low, value.high, 2)}"
    return f"{numbers}: {contrast.verdict}"
