"""heads.json for people: tables for a terminal, and the map of heads as an SVG drawing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prune.choosing.heads import RETRIEVAL, Ablation, Estimate, Heads
from prune.common.screen import svg
from prune.common.screen.numbers import bracketed, signed
from prune.common.screen.tables import Table

if TYPE_CHECKING:
    from rich.console import Group


_SHOWN = 10  # of the first heads
_LEFT, _TOP, _GAP, _RIGHT = 34.0, 48.0, 18.0, 8.0
_MOST = 14.0  # side of a square
_LEAST = 150.0  # width of a panel, so that its heading fits
_STYLE = """
.chart { background: #fff; font: 11px system-ui, sans-serif; }
.chart text { fill: #333; } .chart .note { fill: #666; font-size: 10px; }
.cell { fill: #1f5fa8; } .frame { fill: none; stroke: #ccc; stroke-width: 0.5; } .ring { fill: none; stroke: #c2410c; }
@media (prefers-color-scheme: dark) {
  .chart { background: #111; } .chart text { fill: #ddd; } .chart .note { fill: #aaa; }
  .cell { fill: #6db1ff; } .frame { stroke: #444; } .ring { stroke: #fb923c; }
}
"""


def heads_table(heads: Heads) -> Group:
    """The result in words and tables: trials, the first heads, and what taking them out does."""
    from rich.console import Group
    from rich.text import Text

    parts = [Text(line) for line in _lines(heads)]
    return Group(*parts, _trial_table(heads), _first_table(heads), *map(_ablation_table, heads.ablations))


def _lines(heads: Heads) -> list[str]:
    retrieval = len(heads.steady) + len(heads.sometimes)
    lines = [
        f"{heads.model}: {heads.answered} of {len(heads.trials)} trials answered",
        f"{retrieval} of {sum(heads.heads)} heads ({heads.retrieval_share:.1%}) copy over a tenth of the needle: "
        f"{len(heads.steady)} in nearly every context, {len(heads.sometimes)} in some",
        f"copy and write score agree by a rank correlation of {_number(heads.agreement)}",
    ]
    if heads.left_out:
        lines.append(f"{len(heads.left_out)} needles were left out: the model answers them without any text")
    if heads.stability is not None:
        stable = heads.stability
        lines.append(
            f"between halves of the needles: correlation {_number(stable.copy_score)} (copy) and "
            f"{_number(stable.write_score)} (write); {stable.copy_overlap:.0%} and {stable.write_overlap:.0%} of the "
            f"first {stable.heads} heads are the same"
        )
    if heads.against is not None:
        other = heads.against
        lines.append(
            f"against {other.model}: dropped layers held {other.removed_copy:.0%} of its copy score and "
            f"{other.removed_write:.0%} of its write score; of its {other.retrieval_heads} retrieval heads "
            f"{other.kept} are kept and {other.still} still are such; {other.new} are new"
        )
    return lines


def _trial_table(heads: Heads) -> Table:
    lengths = sorted({trial.length for trial in heads.trials})
    depths = sorted({trial.depth for trial in heads.trials})
    rows = []
    for length in lengths:
        cells = []
        for depth in depths:
            some = [trial.recall for trial in heads.trials if (trial.length, trial.depth) == (length, depth)]
            cells.append(f"{sum(some) / len(some):.2f}")
        rows.append([f"{length:,}", *cells])
    head = ["tokens", *(f"depth {depth:.2f}" for depth in depths)]
    return Table.of("Needle recall", head, rows)


def _first_table(heads: Heads) -> Table:
    rows = [
        [
            f"{layer}.{head}",
            f"{heads.write_score[layer][head]:.3f}",
            f"{heads.copy_score[layer][head]:.2f}",
            f"{heads.active[layer][head]:.0%}",
        ]
        for layer, head in heads.ranked()[:_SHOWN]
    ]
    return Table.of("First heads (layer.head)", ["head", "write score", "copy score", "active in"], rows)


def _ablation_table(ablation: Ablation) -> Table:
    rows = [
        [
            effect.measure,
            str(effect.questions),
            f"{effect.full:.2f}",
            f"{effect.without_top:.2f}",
            f"{sum(effect.without_random) / len(effect.without_random):.2f}",
            _estimate(effect.beyond_random),
            effect.verdict or "",
        ]
        for effect in ablation.effects
    ]
    head = ["measure", "questions", "full", "without", "random", "random less without", "claim"]
    title = f"Without the first {len(ablation.heads)} heads by {ablation.by} score"
    caption = (
        f"random: mean of {len(ablation.random)} draws of as many heads of the same layers; 95 % intervals. "
        "Claimed: needles fall by more than with random heads, facts and sums do not."
    )
    return Table.of(title, head, rows, words=["measure", "claim"], caption=caption)


def _estimate(value: Estimate) -> str:
    return f"{signed(value.estimate, 2)} {bracketed(value.low, value.high, 2)}"


def _number(value: float) -> str:
    return "none (one of them is constant)" if math.isnan(value) else f"{value:.2f}"


def draw_heads(heads: Heads) -> str:
    """An SVG drawing: copy scores on the left, write scores on the right, the first layer on top.

    A square has as much colour as its score is of the highest one; a negative write score is blank. A ring marks the
    retrieval heads (copy score above 0.1).
    """
    most = max(heads.heads)
    side = min(_MOST, (svg.WIDTH * 2 - 2 * _LEFT - _GAP - _RIGHT) / (2 * most))
    panel = max(_LEAST, most * side)
    width = 2 * (_LEFT + panel) + _GAP + _RIGHT
    height = _TOP + heads.layers * side + 34
    title = f"Heads of {heads.model}"
    root = svg.document("heads", title, "Copy and write score of every head", _STYLE, height, width=width)
    for index, (name, rows) in enumerate((("copy score", heads.copy_score), ("write score", heads.write_score))):
        left = _LEFT + index * (_LEFT + panel + _GAP)
        _panel(root, heads, rows, name, left, side)
    svg.add(
        root, "text", "Colour: share of the highest. Ringed: copy score above 0.1", x=_LEFT, y=height - 6, class_="note"
    )
    return svg.content(root)


def _panel(
    root: svg.Element, heads: Heads, rows: tuple[tuple[float, ...], ...], name: str, left: float, side: float
) -> None:
    highest = max((value for row in rows for value in row), default=0.0)
    svg.add(root, "text", f"{name} (highest {highest:.2f})", x=left, y=16)
    group = svg.add(root, "g")
    for layer, row in enumerate(rows):
        y = _TOP + layer * side
        if layer in _numbered(heads.layers):
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
    for head in _numbered(max(heads.heads)):
        svg.add(group, "text", str(head), x=left + (head + 0.5) * side, y=_TOP - 5, text_anchor="middle")
    svg.add(root, "text", "head", x=left, y=_TOP - 18, class_="note")
    svg.add(root, "text", "layer", x=left - 5, y=_TOP - 5, class_="note", text_anchor="end")


def _numbered(count: int) -> set[int]:
    """Rows or columns that have their number beside them: every fifth, and the last."""
    return {number for number in range(0, count, 5) if number < count - 2} | {count - 1}
