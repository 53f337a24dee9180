"""Figures and the terminal's picture of a scan: what they say, and what they colour."""

import io

import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from rich.console import Console

from prune.common.errors import UsageError
from prune.scanning.plots import cells, draw_scan, heat_map
from prune.scanning.table import best_table, heat_strip
from tests.support.checkpoints import hand_made_scan

LAYERS = 6


@pytest.fixture
def made_scan():
    """The best block of every size starts at layer 2, or as near to it as it fits."""
    return hand_made_scan(layers=LAYERS).model_copy(update={"provenance": {"model": {"model": "owner/name"}}})


def texts(figure):
    found = []
    for axes in figure.axes:
        found += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        found += [child.get_ylabel() for child in axes.child_axes]
        if axes.get_legend():
            found += [text.get_text() for text in axes.get_legend().get_texts()]
    return "\n".join(found)


def test_row_scale_is_said_on_the_figure(made_scan):
    said = texts(heat_map(made_scan, scale="row"))
    for words in ("start layer l (0-based)", "block size n", "each row rescaled to [0, 1]", "layers dropped (%)"):
        assert words in said
    for words in (
        "owner/name",
        "last token, 3 samples of at most 64 tokens",
        "would drop the last layer",
        "best start",
    ):
        assert words in said
    raw = texts(heat_map(made_scan, scale="raw"))
    assert "rescaled" not in raw
    assert "units of π" in raw


def test_cells_are_rescaled_within_rows_and_leave_the_last_layer_out(made_scan):
    grid = cells(made_scan, scale="row")
    assert grid.shape == (LAYERS - 1, LAYERS)
    for n in range(1, LAYERS):
        assert np.isnan(grid[n - 1, LAYERS - n :]).all()
        assert np.nanmin(grid[n - 1]) == 0.0
        assert np.nanmax(grid[n - 1]) == (1.0 if n < LAYERS - 1 else 0.0)
    raw = cells(made_scan, scale="raw")
    assert raw[1, 2] == pytest.approx(0.12)
    assert raw[0, :5].tolist() == list(made_scan.distance[0][:5])


def test_minima_are_marked_and_last_layer_blocks_hatched(made_scan):
    axes = heat_map(made_scan).axes[0]
    marks = next(line for line in axes.lines if line.get_label().startswith("best start"))
    assert list(zip(marks.get_xdata(), marks.get_ydata(), strict=True)) == [(b.start, b.n) for b in made_scan.best]
    hatched = next(c for c in axes.collections if isinstance(c, PatchCollection))
    centres = [tuple(path.get_extents().get_points().mean(0)) for path in hatched.get_paths()]
    assert centres == [(LAYERS - n, n) for n in range(1, LAYERS)]
    assert hatched.get_hatch()


@pytest.mark.parametrize(("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_figure_files(made_scan, suffix, head):
    content = draw_scan(made_scan, f"map{suffix}")
    assert content.startswith(head)
    assert len(content) > 5000


def test_wrong_suffix_or_model_is_wrong_usage(made_scan):
    with pytest.raises(UsageError, match="--plot"):
        draw_scan(made_scan, "map.jpeg2")
    one = made_scan.model_copy(update={"layers": 1, "distance": ((0.1,),), "stderr": ((0.1,),)})
    with pytest.raises(UsageError, match="one layer"):
        draw_scan(one, "map.png")


def test_strip_is_lowest_at_the_least_and_stays_narrow():
    line = heat_strip([0.3, 0.1, 0.5, 0.2])
    assert line.plain[1] == "▁"
    assert line.plain[2] == "█"
    wide = heat_strip([0.5] * 70 + [0.1] + [0.6] * 9)
    assert len(wide.plain) == 40
    assert wide.plain[35] == "▁"
    assert heat_strip([0.2, 0.2]).plain == "▁▁"


def test_table_names_blocks_by_their_layers(made_scan):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(best_table(made_scan, strip=True))
    shown = console.export_text()
    assert "2-3" in shown
    assert "0.1200 ± 0.0000" in shown
    assert "33%" in shown
    assert "3 samples" in shown
