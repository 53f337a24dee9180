"""All figures of a scan in one folder: heat maps, d against start for every size, and each layer's own measures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.common.errors import UsageError
from prune.common.outputs import staged_directory
from prune.scanning.plots import heat_map, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prune.scanning.result import Scan

# Okabe and Ito's colours, which stay apart for colour-blind eyes; line styles keep them apart in grey.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def plot_all(scan: Scan, out: str | Path, *, suffix: str = "png", overwrite: bool = False) -> list[Path]:
    """Write heat_map, heat_map_raw, distance_by_start and layers, each as `suffix`, into the folder `out`.

    Returns:
        The files, in that order.
    """
    if scan.layers < 2:
        raise UsageError("a model of one layer has no block to draw")
    figures = {
        "heat_map": heat_map(scan, scale="row"),
        "heat_map_raw": heat_map(scan, scale="raw"),
        "distance_by_start": distance_by_start(scan),
        "layers": layer_measures(scan),
    }
    out = Path(out)
    with staged_directory(out, overwrite=overwrite) as stage:
        for name, figure in figures.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, dpi=200)
            (stage / f"{name}.{suffix}").write_bytes(content.getvalue())
    return [out / f"{name}.{suffix}" for name in figures]


def distance_by_start(scan: Scan) -> Figure:
    """d(l, n) against l, one line a size, the minima marked and joined; blocks that drop the last layer left out."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["viridis"]
    scale = Normalize(1, scan.layers - 1)
    for n in range(1, scan.layers):
        row = scan.distance[n - 1][:-1]
        axes.plot(range(len(row)), row, color=colours(scale(n)), linewidth=1.0)
    best = scan.best
    axes.plot(
        [b.start for b in best],
        [b.distance for b in best],
        color="black",
        linewidth=0.9,
        marker="o",
        markersize=3.6,
        markerfacecolor="white",
        label="best start l*(n), joined from n to n+1",
    )
    axes.set_xlabel("start layer l (0-based)")
    axes.set_ylabel("angular distance d(l, n), in units of π rad")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=9)
    _bare(axes)
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, pad=0.02, fraction=0.05)
    bar.outline.set_visible(False)
    bar.set_label("block size n (layers dropped)")
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    axes.set_title(title(scan), loc="left", fontsize=10.5)
    return figure


def layer_measures(scan: Scan) -> Figure:
    """What each layer changes by itself: influence, relative magnitude, and 1 - CKA of its input and output."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    layers = np.arange(scan.layers)
    where = "all tokens"
    axes.plot(
        layers, scan.influence, color=_BLUE, marker="o", markersize=3.5, label=f"block influence, 1 − cos ({where})"
    )
    if scan.magnitude:
        axes.plot(
            layers,
            scan.magnitude,
            color=_ORANGE,
            marker="s",
            markersize=3.2,
            linestyle="--",
            label=f"relative magnitude, |Δx| / |x + Δx| ({where})",
        )
    if scan.cka and not np.isnan(scan.cka[0]).all():
        axes.plot(
            layers,
            1.0 - np.array(scan.cka[0]),
            color=_GREEN,
            marker="^",
            markersize=3.5,
            linestyle=":",
            label="1 − linear CKA, debiased (last token)",
        )
    axes.set_yscale("log")
    axes.set_xlabel("layer (0-based)")
    axes.set_ylabel("change from input to output (no unit, log scale)")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    _bare(axes)
    axes.set_title(title(scan, "What each layer changes"), loc="left", fontsize=10.5)
    return figure


def _bare(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
