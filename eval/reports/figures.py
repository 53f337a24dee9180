"""The bill as figures, PNG and SVG each: changes by domain with their intervals, and fast against slow thinking."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.billing.bill import FEW, Row, row_from
from prune.common.outputs import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eval.billing.statistics import Interval

MARKERS = "osD^vP*X"  # a shape as well as a colour for each line or model, so that the figure reads without colour
_TILES = {  # count -> colour and name; light and dark enough to be told apart in grey
    "both_right": ("#0a5fa8", "right in both"),
    "fast_only": ("#e8b98f", "right at once only"),
    "slow_only": ("#7fc3a8", "right after thinking only"),
    "both_wrong": ("#d9dcd8", "wrong in both"),
}
_PER_ROW = 6  # squares, or as many as there are models


def plot_comparison(document: Mapping[str, Any], folder: str | Path) -> None:
    """Write comparison.png and .svg, and with fast and slow thinking thinking.png and .svg, into a folder.

    Args:
        document: that of comparison.json; a figure that it has no rows for is not written.
        folder: where to.
    """
    if any(row["versus"] for row in document["rows"]):
        save_figure(changes_figure(document), Path(folder) / "comparison")
    if document["thinking"]:
        save_figure(thinking_figure(document), Path(folder) / "thinking")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as `path`.png and `path`.svg; the same figure gives the same bytes."""
    import matplotlib

    for suffix, metadata in (("png", None), ("svg", {"Date": None})):
        content = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "regrowth"}):
            figure.savefig(content, format=suffix, dpi=150, metadata=metadata)
        write_bytes(path.with_name(f"{path.name}.{suffix}"), content.getvalue())


def changes_figure(document: Mapping[str, Any]) -> Figure:
    """Left the change of accuracy in percentage points, right the change of answer NLL in bits."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    full, *others = [model["label"] for model in document["models"]]
    every = [row_from(raw) for raw in document["rows"]]
    groups = [row for row in every if row.versus is None]
    figure = Figure(figsize=(11, 2.2 + 0.42 * len(groups) * (len(others) + 0.8)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    shades = [colormaps["viridis"](0.1 + 0.65 * i / max(1, len(others) - 1)) for i in range(len(others))]
    step = 0.7 / max(1, len(others))
    for index, label in enumerate(others):
        rows = [row for row in every if row.model == label]
        heights = [place + (index - (len(others) - 1) / 2) * step for place in range(len(rows))]
        style = {"color": shades[index], "marker": MARKERS[index % len(MARKERS)], "label": label}
        _dots(left, rows, heights, "accuracy_difference", 100, style)
        _dots(right, rows, heights, "answer_nll_bits_difference", 1, style)
    left.set_yticks(range(len(groups)), [_name(row) for row in groups])
    left.set_ylim(len(groups) - 0.5, -0.5)
    left.set_xlabel("accuracy, percentage points (left is worse)")
    right.set_xlabel("answer NLL, bits per answer (right is worse)")
    for axes in (left, right):
        axes.axvline(0, color="0.35", linewidth=1)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        for place in range(len(groups) - 1):
            axes.axhline(place + 0.5, color="0.85", linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(f"Change against {full} on the same questions, with 95 % paired intervals")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(others)), frameon=False
    )
    return figure


def _name(row: Row) -> str:
    few = " (few)" if row.n < FEW else ""
    return (
        f"{row.domain}, {row.protocol}\n{row.model}: {100 * row.accuracy.estimate:.0f} %, "
        f"{row.answer_nll_bits:.1f} bits\nchance {100 * row.chance:.0f} %, n = {row.n}{few}"
    )


def _dots(axes: Any, rows: list[Row], heights: list[float], what: str, scale: float, style: dict[str, Any]) -> None:
    found: list[Interval] = [getattr(row.versus, what) for row in rows]
    centres = [scale * i.estimate for i in found]
    # the interval of an accuracy is not centred on its estimate, which may even lie on its edge
    below = [max(0.0, scale * (i.estimate - i.low)) for i in found]
    above = [max(0.0, scale * (i.high - i.estimate)) for i in found]
    axes.errorbar(centres, heights, xerr=[below, above], linestyle="none", capsize=3, markersize=6, **style)


def thinking_figure(document: Mapping[str, Any]) -> Figure:
    """The 2x2 counts as areas: columns fast right and fast wrong by their share, each split into slow right and wrong.

    The upper part of the left column is the overthinking rate, the lower part of the right one the correction rate.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = document["thinking"]
    models = len({row["model"] for row in rows})
    columns = min(max(1, _PER_ROW // models) * models, len(rows))  # a task's squares stay side by side
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(max(6.5, 2.05 * columns), 0.9 + 2.75 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, row in zip(panels, rows, strict=False):
        _square(axes, row["counts"])
        axes.set_title(f"{row['domain']}, {row['protocol']}\n{row['model']}", fontsize=9, loc="left")
        shares = [_share(row[key]) for key in ("a_fast", "r_c", "r_o")]
        gain = 100 * row["delta"]["estimate"]
        axes.set_xlabel(
            f"$A_{{fast}}$ {shares[0]}, $\\delta$ {gain:+.1f}\n$r_c$ {shares[1]}, $r_o$ {shares[2]}", fontsize=8.5
        )
    for axes in panels[len(rows) :]:
        axes.set_visible(False)
    figure.suptitle("The same questions at once (fast) and after a chain of thought (slow)", fontsize=11)
    handles = [Patch(facecolor=colour, label=name) for colour, name in _TILES.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, 2 * columns), frameon=False, fontsize=9)
    return figure


def _square(axes: Any, counts: Mapping[str, int]) -> None:
    n = sum(counts[key] for key in _TILES)
    x = 0.0
    for right, wrong in (("both_right", "fast_only"), ("slow_only", "both_wrong")):
        total = counts[right] + counts[wrong]
        width, y = total / n, 0.0
        for key in (right, wrong):
            height = counts[key] / total if total else 0.0
            style = {"edgecolor": "white", "linewidth": 1.5}
            axes.bar(x, height, width, y, align="edge", color=_TILES[key][0], **style)
            if width > 0.16 and height > 0.1:
                colour = "white" if key == "both_right" else "black"
                place = (x + width / 2, y + height / 2)
                axes.text(*place, f"{counts[key]}", ha="center", va="center", fontsize=9, color=colour)
            y += height
        x += width
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _share(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{100 * found['estimate']:.0f} %"
