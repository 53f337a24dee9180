"""Figures by depth: every series and panel is there, and heights are those of the values."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from eval.depth.contrasting.interaction import DomainCosts, depth_interaction
from eval.depth.pages.figures import AlikeCurve, RemovalCurve, alike_section, contrast_section, removal_section
from eval.reports.drawing.sheet import sheet
from prune.common.intervals import Interval
from tests.support.report_page import Page

STARTS = range(12)


def around(values):
    return [Interval(value, value - abs(value) / 5, value + abs(value) / 5) for value in values]


def removed(measure="answer at once", size=1, top=200.0):
    costs = {"mathematics": [top, *np.linspace(2, 0.5, 11)], "medicine": [top / 2, *np.linspace(1, -0.1, 11)]}
    return [
        RemovalCurve(name, measure, "bits per answer", size, STARTS, around(values)) for name, values in costs.items()
    ]


def marks(svg, name, panel=0):
    """(x, y) of the marks of a series in one panel."""
    charts = [element for element in ElementTree.fromstring(svg) if "chart" in element.get("class", "")]
    group = next(element for element in charts[panel].iter() if element.get("data-series") == name)
    spots = [e for e in group.iter() if "mark" in e.get("class", "")]
    if spots[0].tag.endswith("circle"):
        return [(float(e.get("cx")), float(e.get("cy"))) for e in spots]
    return [(float(e.get(x)) + float(e.get("width")) / 2, float(e.get(y))) for e in spots for x, y in [("x", "y")]]


def test_a_removal_map_has_a_panel_for_each_measure_and_size():
    svg = sheet(removal_section([*removed(), *removed(size=4), *removed("writing a chain")]))
    words = [element["text"] for element in Page(svg).all("text")]
    assert words.count("answer at once") == 2
    assert words.count("first removed layer (0-based)") == 3
    assert "4 layers removed at a time" in words
    assert words.count("bits per answer lost, log-like above 0.1") == 3
    assert len(re.findall(r'class="band', svg)) == 6
    assert "var(" not in svg
    assert sheet(removal_section(removed())) == sheet(removal_section(removed()))


def test_a_destroyed_first_layer_does_not_flatten_the_rest():
    heights = [y for _, y in marks(sheet(removal_section(removed())), "mathematics")]
    assert heights[0] == min(heights)
    assert heights[1:] == sorted(heights[1:])  # y grows downwards, costs fall
    rest, whole = heights[-1] - heights[1], heights[-1] - heights[0]
    assert rest > whole / 6  # 1.5 of 200 bits
    words = [element["text"] for element in Page(sheet(removal_section(removed(top=3.0)))).all("text")]
    assert "bits per answer lost" in words  # a linear axis is enough


def contrast(tilt=1.0):
    rng = np.random.default_rng(0)
    depths = (np.arange(12) + 0.5) / 12
    sides = [
        DomainCosts(name, (1.5 - depths + t * (depths - 0.5))[:, None] + rng.normal(0, 0.3, (12, 40)), np.arange(40))
        for name, t in (("mathematics", tilt), ("medicine", 0.0))
    ]
    return sides, depths


def test_a_contrast_curve_shows_the_difference_by_depth():
    sides, depths = contrast()
    found = depth_interaction(*sides, depths, seed=0)
    svg = sheet(contrast_section([found], ["answer at once, 1 layer removed"]))
    spots = marks(svg, "mathematics less medicine")
    assert len(spots) == 12
    differences = [block.difference.estimate for block in found.profile]
    assert np.corrcoef(differences, [y for _, y in spots])[0, 1] == pytest.approx(-1, abs=1e-3)
    assert np.corrcoef(depths, [x for x, _ in spots])[0, 1] == pytest.approx(1, abs=1e-3)
    page = Page(svg)
    assert len(page.all("rect", class_="shade")) == 2
    assert page.all("line", class_="zero")
    words = [element["text"] for element in page.all("text")]
    assert {"shallow", "deep", "middle of the removed block, share of all layers"} <= set(words)
    assert any(word.startswith("+") and ": seen" in word for word in words)


def test_what_has_no_relative_costs_is_not_drawn():
    sides, depths = contrast()
    idle = DomainCosts("idle", sides[1].costs * 0, sides[1].clusters)
    nothing = depth_interaction(sides[0], idle, depths, seed=0)
    with pytest.raises(ValueError, match="no contrast"):
        contrast_section([nothing], ["a"])
    svg = sheet(contrast_section([nothing, depth_interaction(*sides, depths, seed=0)], ["a", "b"]))
    assert "b" in [element["text"] for element in Page(svg).all("text")]
    assert len([e for e in ElementTree.fromstring(svg) if "chart" in e.get("class", "")]) == 1


def test_alike_curves_have_a_panel_for_each_kind_of_state():
    values = np.linspace(0.95, 0.5, 30)
    panels = ("layer outputs, last token", "attention outputs, last token")
    alike = [AlikeCurve(name, panel, around(values)) for panel in panels for name in ("mathematics", "law")]
    svg = sheet(alike_section(alike))
    words = [element["text"] for element in Page(svg).all("text")]
    assert set(panels) <= set(words)
    assert words.count("layer (0-based)") == 2
    heights = [y for _, y in marks(svg, "law", panel=1)]
    assert heights == sorted(heights)
    assert len(heights) == 30
