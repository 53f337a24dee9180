"""A scan on a terminal: the table of best blocks, and one coloured line a size that shows d(l, n) against l."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from prune.scanning.result import Group, Scan

_HEIGHTS = "▁▂▃▄▅▆▇█"
_VIRIDIS = ("#fde725", "#addc30", "#5ec962", "#28ae80", "#21918c", "#2c728e", "#3b528b", "#472d7b")  # near to far
_WIDEST = 40
_HEADS = {"half": "halves", "source": "sources", "ending": "endings"}


def best_table(scan: Scan, *, strip: bool = False) -> Table:
    """Best block of each size up to half of the layers, with its standard error and what part of the layers it drops.

    Args:
        strip: add a line a size: d(l, n) for each start l from the left, height and colour rescaled in its row.
    """
    most = min(scan.layers - 1, max(1, scan.layers // 2))
    where = "the last token" if scan.tokens == "last" else "all tokens"
    title = f"Best block of each size ({scan.samples} samples, angular distance at {where}; layers from 0)"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("n", justify="right")
    table.add_column("dropped", justify="right")
    table.add_column("layers", justify="right", no_wrap=True)
    table.add_column("distance", justify="right", no_wrap=True)
    if strip:
        table.add_column("d by start, each row rescaled", no_wrap=True)
        table.caption = "The last layer is kept. Low and light: the block changes little."
    else:
        table.caption = "The last layer is kept."
    if any(ties(scan, best.n) for best in scan.best[:most]):
        table.caption += " ~: another start lies within two standard errors."
    for kind in dict.fromkeys(group.kind for group in scan.groups):
        parts = [group for group in scan.groups if group.kind == kind]
        table.add_column(_HEADS.get(kind, kind), no_wrap=True)
        table.caption += f"\n{_HEADS.get(kind, kind)}: best start for {_spelled(parts)}"
    if scan.groups:
        table.caption += "\n!: the best start differs between the parts"
    for best in scan.best[:most]:
        error = scan.stderr[best.n - 1][best.start]
        last = best.start + best.n - 1
        tied = ties(scan, best.n)
        block = str(best.start) if best.n == 1 else f"{best.start}-{last}"
        cells: list[str | Text] = [
            str(best.n),
            f"{best.n / scan.layers:.0%}",
            block + (" ~" if tied else ""),
            f"{best.distance:.4f}" + ("" if math.isnan(error) else f" ± {error:.4f}"),
        ]
        if strip:
            cells.append(heat_strip(scan.distance[best.n - 1][:-1]))
        for kind in dict.fromkeys(group.kind for group in scan.groups):
            starts = [group.starts[best.n - 1] for group in scan.groups if group.kind == kind]
            cells.append(" / ".join(map(str, starts)) + (" !" if len(set(starts)) > 1 else ""))
        table.add_row(*cells)
    return table


def ties(scan: Scan, n: int) -> list[int]:
    """Other starts whose distance lies within two standard errors (of both, added in squares) of the least.

    The samples are the same for both, so that the true error of a difference is smaller: a tie is called early.
    """
    row, errors = scan.distance[n - 1][:-1], scan.stderr[n - 1]
    best = min(range(len(row)), key=lambda start: (row[start], start))
    return [
        start
        for start, value in enumerate(row)
        if start != best and value - row[best] <= 2.0 * math.hypot(errors[start], errors[best])
    ]


def _spelled(groups: Sequence[Group]) -> str:
    return " / ".join(f"{group.name} ({group.samples})" for group in groups)


def heat_strip(values: Sequence[float]) -> Text:
    """One character for each value (for every few where there are many: the least), rescaled from least to most."""
    step = math.ceil(len(values) / _WIDEST)
    shown = [min(values[i : i + step]) for i in range(0, len(values), step)]
    least, most = min(shown), max(shown)
    line = Text()
    for value in shown:
        part = (value - least) / (most - least) if most > least else 0.0
        level = min(7, int(part * 8))
        line.append(_HEIGHTS[level], style=_VIRIDIS[level])
    return line
