"""The bill as a figure: a dot with its 95 % interval for each domain, protocol and model, against the full model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.bill import FEW

if TYPE_CHECKING:
    from eval.bill import Row
    from eval.comparison import Comparison
    from eval.statistics import Interval

_MARKERS = "osD^vP*X"  # a shape as well as a colour for each model, so that the figure reads without colour


def plot_comparison(found: Comparison, path: str | Path) -> None:
    """Write the PNG: left the change of accuracy in percentage points, right the change of answer NLL in bits."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    others = found.labels[1:]
    groups = [row for row in found.rows if row.versus is None]
    figure = Figure(figsize=(11, 2.2 + 0.42 * len(groups) * (len(others) + 0.8)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    shades = [colormaps["viridis"](0.1 + 0.65 * i / max(1, len(others) - 1)) for i in range(len(others))]
    step = 0.7 / max(1, len(others))
    for index, label in enumerate(others):
        rows = [row for row in found.rows if row.model == label]
        heights = [place + (index - (len(others) - 1) / 2) * step for place in range(len(rows))]
        style = {"color": shades[index], "marker": _MARKERS[index % len(_MARKERS)], "label": label}
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
    figure.suptitle(f"Change against {found.labels[0]} on the same questions, with 95 % paired intervals")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(others)), frameon=False
    )
    figure.savefig(path, dpi=150)


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
