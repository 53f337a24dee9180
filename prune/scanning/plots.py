"""Figures of a scan: heat maps in the layout of arXiv 2403.17887, d against start, and what each layer changes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.common.errors import UsageError
from prune.common.files.outputs import staged_directory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prune.scanning.result import Scan

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
MARKS = tuple(f"distance_by_start{suffix}" for suffix in FIGURE_SUFFIXES)  # what a folder of `plot_all` is known by
_DISTANCE = "Angular distance between layer inputs"
# Okabe and Ito's colours, which stay apart for colour-blind eyes; line styles keep them apart in grey.
_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"


def check_figure(path: str | Path) -> Path:
    """Return `path`, or raise where no figure of that kind can be written."""
    path = Path(path)
    if path.suffix.lower() not in FIGURE_SUFFIXES:
        raise UsageError(f"--plot {path}: give a file that ends in {', '.join(FIGURE_SUFFIXES)}")
    return path


def draw_scan(scan: Scan, path: str | Path) -> bytes:
    """The heat map as the content of a file of `path`'s kind (.png, .pdf or .svg); nothing is written."""
    return _content(heat_map(scan), check_figure(path).suffix[1:].lower())


def _content(figure: Figure, kind: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=200)
    return content.getvalue()


def cells(scan: Scan, *, scale: str) -> np.ndarray:
    """The coloured cells, shape (L-1, L): row n-1, column l; NaN where a block would drop the last layer or not fit.

    With "row" each size is rescaled to [0, 1] over the blocks that keep the last layer: the others are far off,
    and would leave the rest one colour.
    """
    grid = np.full((scan.layers - 1, scan.layers), np.nan)
    for n in range(1, scan.layers):
        row = np.array(scan.distance[n - 1][:-1])
        if scale == "row":
            spread = np.ptp(row)
            row = (row - row.min()) / spread if spread > 0 else np.zeros_like(row)
        grid[n - 1, : len(row)] = row
    return grid


def heat_map(scan: Scan, *, scale: str = "row") -> Figure:
    """Start l along x, block size n along y; minima marked, blocks that would drop the last layer hatched.

    Args:
        scale: "row" shifts and rescales each block size to [0, 1], as in the paper; "raw" shows d itself.
    """
    if scan.layers < 2:
        raise UsageError("a model of one layer has no block to draw")
    figure, axes = _empty(6.0)
    image = axes.imshow(
        cells(scan, scale=scale),
        origin="lower",
        aspect="auto",
        cmap="viridis_r",
        interpolation="nearest",
        extent=(-0.5, scan.layers - 0.5, 0.5, scan.layers - 0.5),
    )
    hatched = _hatch_last(axes, scan.layers)
    best = scan.best
    mark = {"markersize": 4.2, "markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.9}
    (minima,) = axes.plot([b.start for b in best], [b.n for b in best], "o", label="best start l*(n)", **mark)
    axes.set_xlabel("start layer l (0-based)")
    axes.set_ylabel("block size n (layers dropped: l … l+n−1)")
    axes.locator_params(integer=True)
    _bare(axes, title(scan))
    axes.legend(handles=[minima, hatched], loc="upper right", frameon=False, fontsize=9)

    def percent(n: Any) -> Any:
        return 100 * n / scan.layers

    def size(share: Any) -> Any:
        return share * scan.layers / 100

    share = axes.secondary_yaxis("right", functions=(percent, size))
    share.set_ylabel("layers dropped (%)")
    share.spines["right"].set_visible(False)
    bar = figure.colorbar(image, ax=axes, pad=0.03, fraction=0.05)
    bar.outline.set_visible(False)
    bar.set_label(
        "angular distance, each row rescaled to [0, 1] (compare within a row only)"
        if scale == "row"
        else "angular distance d(l, n), in units of π rad"
    )
    return figure


def _hatch_last(axes: Any, layers: int) -> Any:
    """Hatch the block of each size that would drop the last layer; returns what stands for it in the legend."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    boxes = [Rectangle((layers - n - 0.5, n - 0.5), 1, 1) for n in range(1, layers)]
    style: dict[str, Any] = {"facecolor": "#e6e6e6", "edgecolor": "#8a8a8a", "linewidth": 0.0, "hatch": "//////"}
    axes.add_collection(PatchCollection(boxes, **style))
    return Patch(**style, label="would drop the last layer")


def title(scan: Scan, what: str = _DISTANCE) -> str:
    """Two lines: what is shown of which model, and on what it was measured."""
    model = scan.provenance.get("model")
    name = str(model.get("model", "")) if isinstance(model, dict) else ""
    name = "/".join(Path(name).parts[-2:]) or "model"  # a hub id whole, a long path by its end
    where = "" if what != _DISTANCE else "last token, " if scan.tokens == "last" else "all tokens, "
    return f"{what}: {name}\n{where}{scan.samples} samples of at most {scan.length} tokens"


def plot_all(scan: Scan, out: str | Path, *, suffix: str = "png", overwrite: bool = False) -> list[Path]:
    """Write heat_map, heat_map_raw, distance_by_start and layers, each as `suffix`, into the folder `out`.

    Returns:
        The files, in that order.

    Raises:
        UsageError: the model has one layer.
    """
    figures = {
        "heat_map": heat_map(scan, scale="row"),
        "heat_map_raw": heat_map(scan, scale="raw"),
        "distance_by_start": distance_by_start(scan),
        "layers": layer_measures(scan),
    }
    out = Path(out)
    with staged_directory(out, overwrite=overwrite, marks=MARKS) as stage:
        for name, figure in figures.items():
            (stage / f"{name}.{suffix}").write_bytes(_content(figure, suffix))
    return [out / f"{name}.{suffix}" for name in figures]


def distance_by_start(scan: Scan) -> Figure:
    """d(l, n) against l, one line a size, the minima marked and joined; blocks that drop the last layer left out."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    figure, axes = _empty(5.0)
    colours = matplotlib.colormaps["viridis"]
    scale = Normalize(1, scan.layers - 1)
    for n in range(1, scan.layers):
        row = scan.distance[n - 1][:-1]
        axes.plot(range(len(row)), row, color=colours(scale(n)), linewidth=1.0)
    best = scan.best
    style = {"color": "black", "linewidth": 0.9, "markersize": 3.6, "markerfacecolor": "white"}
    starts, distances = [b.start for b in best], [b.distance for b in best]
    axes.plot(starts, distances, "o-", label="best start l*(n), joined from n to n+1", **style)
    axes.set_xlabel("start layer l (0-based)")
    axes.set_ylabel("angular distance d(l, n), in units of π rad")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=9)
    _bare(axes, title(scan))
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, pad=0.02, fraction=0.05)
    bar.outline.set_visible(False)
    bar.set_label("block size n (layers dropped)")
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()
    return figure


def layer_measures(scan: Scan) -> Figure:
    """What each layer changes by itself: influence, relative magnitude, and 1 - CKA of its input and output."""
    figure, axes = _empty(4.6)
    lines = [(scan.influence, _BLUE, "o-", 3.5, "block influence, 1 − cos (all tokens)")]
    if scan.magnitude:
        lines.append((scan.magnitude, _ORANGE, "s--", 3.2, "relative magnitude, |Δx| / |x + Δx| (all tokens)"))
    if scan.cka and not np.isnan(scan.cka[0]).all():
        change = tuple((1.0 - np.array(scan.cka[0])).tolist())
        lines.append((change, _GREEN, "^:", 3.5, "1 − linear CKA, debiased (last token)"))
    for values, colour, style, size, label in lines:
        axes.plot(range(scan.layers), values, style, color=colour, markersize=size, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("layer (0-based)")
    axes.set_ylabel("change from input to output (no unit, log scale)")
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    _bare(axes, title(scan, "What each layer changes"))
    return figure


def _empty(height: float) -> tuple[Figure, Any]:
    """A figure of `height` inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    return figure, figure.add_subplot()


def _bare(axes: Any, heading: str) -> None:
    axes.set_title(heading, loc="left", fontsize=10.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
