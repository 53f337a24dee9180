"""The report's drawings: marks stand where their numbers say."""

import itertools

import pytest

from eval.billing.rows.counts import ThinkingCounts
from eval.reports.drawing.charts import CurvePoint, Dot, DotGroup, PlottedCurve, curves, forest
from eval.reports.drawing.maps import COLOURS, LEAST, block_map, mosaic, shade
from eval.reports.wording.text import p_value
from prune.common.screen.numbers import plain, signed
from prune.common.screen.svg import LogLike, Scale, tick_words, ticks
from tests.support.report_page import Page


def test_dots_stand_where_their_numbers_say():
    dots = (Dot(0, "a", -10.0, -12.0, -8.0), Dot(1, "b", 5.0, 0.0, 10.0))
    page = Page(str(forest("f", "t", "d", "points", [DotGroup("g", "", dots)])))
    series = [e for e in page.all("g") if "data-series" in e]
    found = {e["data-series"]: [float(x["x1"]) for x in page.within(e, "line")] for e in series}
    zero = float(page.one("line", class_="zero")["x1"])
    centre = float(page.one("circle")["cx"])
    per_point = (centre - zero) / -10
    assert per_point > 0  # losses stand on the left
    assert found["a"][0] == pytest.approx(zero - 12 * per_point, abs=0.2)
    assert found["b"][0] == pytest.approx(zero, abs=0.2)
    assert max(found["b"]) == pytest.approx(zero + 10 * per_point, abs=0.2)


def test_curves_fall_where_values_fall_and_show_chance_and_healed():
    points = (CurvePoint(0, 0.6, 0.5, 0.7), CurvePoint(4, 0.3, 0.2, 0.4))
    falling = PlottedCurve(0, "a", points, 0.25, (CurvePoint(4, 0.5),))
    page = Page(str(curves("c", "t", "d", across="layers", up="accuracy", lines=[falling], include=[0.0])))
    first, last, healed = (float(e["cy"]) for e in page.all("circle") if e["class"].startswith("mark"))
    assert first < healed < last  # y grows downwards
    chance = float(page.one("line", class_="chance")["y1"])
    assert last < chance
    assert page.all("path", class_="band s0")
    assert page.all("circle", class_="ring s0")


def test_a_block_map_has_a_cell_for_each_block_and_marks_the_cheapest():
    costs = {(1, 0): 8.0, (1, 1): 0.02, (1, 2): 0.4, (2, 0): 9.0, (2, 1): 0.5}
    page = Page(str(block_map("m", "t", "d", layers=4, costs=costs, unit="bits")))
    painted = [e["d"] for e in page.all("path") if "fill" in e]
    assert sum(d.count("M") for d in painted) == len(costs)
    best = [(float(e["cx"]), float(e["cy"])) for e in page.all("circle", class_="best")]
    assert len(best) == 2
    assert best[0][0] == best[1][0]  # start 1 for both sizes
    assert best[0][1] > best[1][1]  # larger blocks stand higher
    assert shade(LEAST / 2, 9.0) == shade(-1.0, 9.0) == 0
    assert shade(9.0, 9.0) == len(COLOURS) - 1
    assert 0 < shade(0.4, 9.0) < shade(4.0, 9.0) < len(COLOURS) - 1


def test_a_mosaic_without_one_column_is_whole():
    page = Page(str(mosaic("q", "t", "d", ThinkingCounts(0, 0, 3, 7))))
    assert {e["data-series"] for e in page.all("rect")} == {"slow-only", "both-wrong"}


def test_ticks_are_round_and_told_apart():
    assert ticks(-31.6, 2.4) == [-30, -20, -10, 0]
    assert ticks(0.03, 0.31) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])
    assert ticks(0, 15, whole=True) == [0, 5, 10, 15]
    assert tick_words([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"]
    assert Scale(2.0, 2.0, 10, 20)(2.0) == 15


def test_a_log_like_scale_is_linear_near_zero_and_logarithmic_beyond():
    scale = LogLike.around([-1.0, 0.0, 1000.0], 0.01, 200, 0)
    assert scale.low < -1
    assert scale.high > 1000
    assert scale(0.002) - scale(0) == pytest.approx(2 * (scale(0.001) - scale(0)), rel=0.01)
    assert scale(1000) - scale(100) == pytest.approx(scale(100) - scale(10), rel=1e-3)
    marks = scale.marks(6)
    assert [words for _, words in marks][-1] == "1000"
    assert "−1" in [words for _, words in marks]
    heights = [scale(value) for value, _ in marks]
    assert heights == sorted(heights, reverse=True)
    assert min(a - b for a, b in itertools.pairwise(heights)) >= 200 / 12
    assert LogLike.around([0.0, 5.0], 0.1, 0, 100).low == 0


def test_numbers_are_written_as_people_write_them():
    assert signed(-0.04, 1) == "+0.0"  # no negative zero
    assert signed(-1.26, 1) == "−1.3"
    assert plain(0.5, 2) == "0.50"
    assert p_value(0.0) == "< 0.001"


@pytest.mark.parametrize(("dearest", "shown"), [(0.02, []), (0.07, ["≤ 0.05", "0.07"]), (15.5, ["≤ 0.05", "15.5"])])
def test_the_colour_bar_names_both_its_ends(dearest, shown):
    costs = {(1, 0): dearest, (1, 1): -0.1}
    page = Page(str(block_map("m", "t", "d", layers=3, costs=costs, unit="bits (log scale)")))
    words = [e["text"] for e in page.all("text")]
    if not shown:
        assert "no block costs more than 0.05 bits" in words
        assert "bits (log scale)" not in words
    assert [word for word in words if word in shown] == shown
