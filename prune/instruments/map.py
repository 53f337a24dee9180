"""The map of heads: a square for each, layer by layer, the darker the higher its score."""

from __future__ import annotations

from xml.etree import ElementTree

from prune.common import svg
from prune.instruments.result import Heads
from prune.instruments.scores import RETRIEVAL

_LEFT, _TOP, _GAP = 34.0, 40.0, 26.0
_MOST = 14.0  # side of a square
_STYLE = """
.chart { background: #fff; font: 11px system-ui, sans-serif; }
.chart text { fill: #333; } .chart .note { fill: #666; font-size: 10px; }
.cell { fill: #1f5fa8; } .frame { fill: none; stroke: #ccc; stroke-width: 0.5; } .ring { fill: none; stroke: #c2410c; }
@media (prefers-color-scheme: dark) {
  .chart { background: #111; } .chart text { fill: #ddd; } .chart .note { fill: #aaa; }
  .cell { fill: #6db1ff; } .frame { stroke: #444; } .ring { stroke: #fb923c; }
}
"""


def draw_heads(heads: Heads) -> str:
    """An SVG drawing: copy scores on the left, write scores on the right, the first layer on top.

    A square is as dark as its score is of the highest one; a negative write score is blank. A ring marks the retrieval
    heads (copy score above 0.1).
    """
    most = max(heads.heads)
    side = min(_MOST, (svg.WIDTH * 2 - 2 * _LEFT - _GAP) / (2 * most))
    panel = most * side
    width = 2 * (_LEFT + panel) + _GAP
    height = _TOP + heads.layers * side + 34
    title = f"Heads of {heads.model}"
    root = svg.drawing("heads", title, "Copy and write score of every head", height, width=width)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("width", svg.number(width))
    root.set("height", svg.number(height))
    svg.add(root, "style", _STYLE)
    for index, (name, rows) in enumerate((("copy score", heads.copy_score), ("write score", heads.write_score))):
        left = _LEFT + index * (panel + _GAP + _LEFT)
        _panel(root, heads, rows, name, left, side)
    svg.add(root, "text", "Ringed: copy score above 0.1", x=_LEFT, y=height - 6, class_="note")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _panel(
    root: svg.Element, heads: Heads, rows: tuple[tuple[float, ...], ...], name: str, left: float, side: float
) -> None:
    highest = max((value for row in rows for value in row), default=0.0)
    svg.add(root, "text", f"{name} (highest {highest:.2f})", x=left, y=16)
    group = svg.add(root, "g")
    for layer, row in enumerate(rows):
        y = _TOP + layer * side
        if layer % 5 == 0 or layer == heads.layers - 1:
            svg.add(group, "text", str(layer), x=left - 5, y=y + side * 0.75, text_anchor="end")
        for head, value in enumerate(row):
            x = left + head * side
            svg.add(group, "rect", x=x, y=y, width=side, height=side, class_="frame")
            if highest > 0 and value > 0:
                strength = f"{value / highest:.3f}"
                square = svg.add(group, "rect", x=x, y=y, width=side, height=side, class_="cell", fill_opacity=strength)
                svg.add(square, "title", f"layer {layer}, head {head}: {value:.3f}")
            if heads.copy_score[layer][head] > RETRIEVAL:
                svg.add(group, "rect", x=x + 1, y=y + 1, width=side - 2, height=side - 2, class_="ring")
    svg.add(root, "text", "head", x=left, y=_TOP - 8, class_="note")
    svg.add(root, "text", "layer", x=left - 5, y=_TOP - 8, class_="note", text_anchor="end")
