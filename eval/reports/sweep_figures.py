"""The figures of a sweep: each domain against layers dropped, and what dropping each block costs each domain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.reports.figures import MARKERS
from eval.reports.maps import LEAST, colour_ticks
from eval.reports.sweep_terminal import chosen_starts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind eyes; line styles and markers keep lines apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = {"choice": "-", "generation": "--"}
_PER_ROW = 3  # maps


def curves_figure(document: dict[str, Any]) -> Figure:
    """Accuracy (left) and the change of answer NLL (right) against layers dropped, one line a task, with 95 % bands.

    The band of a change is paired: questions differ in their NLL far more than a cut changes it.
    """
    from matplotlib.figure import Figure

    drawn = document["curves"]
    figure = Figure(figsize=(11.5, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    domains = list(dict.fromkeys(curve["domain"] for curve in drawn))
    healed: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in document["healed"]:
        healed.setdefault((one["domain"], one["protocol"]), []).append(one)
    for curve in drawn:
        index = domains.index(curve["domain"])
        style = {
            "color": _COLOURS[index % len(_COLOURS)],
            "linestyle": _STYLES.get(curve["protocol"], ":"),
            "marker": MARKERS[index % len(MARKERS)],
        }
        own = healed.get((curve["domain"], curve["protocol"]), [])
        name = f"{curve['domain']}, {curve['protocol']}"
        if all(point["accuracy"] is not None for point in curve["points"]):
            _line(left, curve["points"], own, "accuracy", 100, style, name)
            left.axhline(100 * curve["chance"], color=style["color"], linewidth=1, linestyle=(0, (1, 2)))
        _line(right, changes(curve["points"]), own, "answer_nll_bits_difference", 1, style, name)
    if any(curve["chance"] is not None for curve in drawn):
        left.plot([], [], color="0.4", linewidth=1, linestyle=(0, (1, 2)), label="chance, in each domain's colour")
    if healed:
        right.plot([], [], color="0.4", linestyle="none", marker="*", markersize=11, label="with the healing adapter")
    right.axhline(0, color="0.35", linewidth=1)
    left.set_ylabel("accuracy, % of questions")
    right.set_ylabel("Δ answer NLL, bits per answer (higher is worse)")
    for axes in (left, right):
        axes.set_xlabel(f"layers dropped, of {document['layers']}")
        axes.locator_params(axis="x", integer=True)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    named = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    named |= dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=min(4, len(named)), frameon=False, fontsize=9
    )
    share = left.secondary_xaxis("top", functions=_shares(document["layers"]))
    share.set_xlabel("layers dropped (%)")
    share.spines["top"].set_visible(False)
    second = right.secondary_xaxis("top", functions=_shares(document["layers"]))
    second.set_xlabel("layers dropped (%)")
    second.spines["top"].set_visible(False)
    figure.suptitle(
        f"{_name(document)}: questions against layers dropped, 95 % bands\n{chosen_starts(document)}", fontsize=11
    )
    return figure


def changes(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points of a curve that have a change of answer NLL; that of the full model is none, without a doubt."""
    none = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    found = [{**point, "answer_nll_bits_difference": none} if point["size"] == 0 else point for point in points]
    return [point for point in found if point["answer_nll_bits_difference"] is not None]


def _line(
    axes: Any, points: list[dict[str, Any]], own: list[dict[str, Any]], what: str, scale: float, style: Any, name: str
) -> None:
    sizes = [point["size"] for point in points]
    middle, low, high = ([scale * point[what][key] for point in points] for key in ("estimate", "low", "high"))
    axes.plot(sizes, middle, markersize=4.5, linewidth=1.6, label=name, **style)
    axes.fill_between(sizes, low, high, color=style["color"], alpha=0.13, linewidth=0)
    for point in own:
        value = point[what]
        if value is None:
            continue
        spread = [[scale * (value["estimate"] - value["low"])], [scale * (value["high"] - value["estimate"])]]
        axes.errorbar(
            [point["size"]],
            [scale * value["estimate"]],
            yerr=np.maximum(0, spread),
            color=style["color"],
            marker="*",
            markersize=12,
            markeredgecolor="black",
            capsize=3,
            linestyle="none",
        )


def map_figure(document: dict[str, Any]) -> Figure:
    """What dropping each block costs: the rise of answer NLL by start and size, a map for each task."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    drawn = document["maps"]
    columns = min(_PER_ROW, len(drawn))
    lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(0.8 + 4.9 * columns, 0.9 + 4.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes, found in zip(panels, drawn, strict=False):
        cells, starts, sizes = _cells(found)
        dearest = float(np.nanmax(cells))
        most = max(2 * LEAST, dearest)
        image = axes.pcolormesh(
            np.arange(starts[0], starts[-1] + 2) - 0.5,
            np.arange(sizes[0], sizes[-1] + 2) - 0.5,
            np.clip(cells, LEAST, None),
            norm=LogNorm(LEAST, most),
            cmap="viridis_r",
        )
        marked = [
            (starts[int(np.nanargmin(row))], size)
            for row, size in zip(cells, sizes, strict=True)
            if not np.isnan(row).all()
        ]
        axes.plot(
            *zip(*marked, strict=True),
            linestyle="none",
            marker="o",
            markersize=4.2,
            markerfacecolor="white",
            markeredgecolor="black",
            markeredgewidth=0.9,
            label="cheapest start of each size",
        )
        below = "" if dearest > LEAST else f": no block costs more than {LEAST:g} bits"
        axes.set_title(f"{found['domain']}, {found['protocol']}{below}", loc="left", fontsize=10.5)
        axes.set_xlabel("start layer l (0-based)")
        axes.set_ylabel("block size n (layers l … l+n−1 dropped)")
        axes.locator_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        if below:  # all of one colour
            continue
        bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.06)
        bar.outline.set_visible(False)
        bar.set_label("rise of answer NLL, bits (log scale)")
        values, words = colour_ticks(dearest)
        bar.set_ticks(values, labels=words)
        bar.minorticks_off()
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=9)
    figure.suptitle(
        f"{_name(document)}: what each block is for\nrise of answer NLL when it is dropped, a colour scale "
        "for each map",
        fontsize=11,
    )
    return figure


def _cells(found: dict[str, Any]) -> tuple[np.ndarray, list[int], list[int]]:
    """The map on a grid without gaps: (sizes, starts), NaN where no variant was measured."""
    starts = list(range(min(found["starts"]), max(found["starts"]) + 1))
    sizes = list(range(min(found["sizes"]), max(found["sizes"]) + 1))
    cells = np.full((len(sizes), len(starts)), np.nan)
    for size, row in zip(found["sizes"], found["answer_nll_bits_difference"], strict=True):
        for start, value in zip(found["starts"], row, strict=True):
            if value is not None:
                cells[sizes.index(size), starts.index(start)] = value
    return cells, starts, sizes


def _shares(layers: int) -> Any:
    return lambda n: 100 * n / layers, lambda share: share * layers / 100


def _name(document: dict[str, Any]) -> str:
    name = str(document["provenance"]["model"]["model"])
    return "/".join(Path(name).parts[-2:]) or "model"  # a hub id whole, a long path by its end
