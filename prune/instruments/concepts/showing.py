"""concepts.json for people: tables for a terminal, and the shares over depth as an SVG drawing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prune.choosing.heads import Estimate
from prune.common.screen import svg
from prune.common.screen.numbers import bracketed, signed
from prune.common.screen.tables import Table
from prune.instruments.concepts.result import AgainstConcepts, Change, Concepts, Example, LayerConcepts, Share

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_TOLD = 3  # clusters of a layer that a terminal shows
_LEFT, _RIGHT, _TOP = 44.0, 12.0, 54.0
_PANEL, _GAP = 92.0, 40.0  # height of a panel, and what stands between two
_STYLE = """
.chart { background: #fff; font: 11px system-ui, sans-serif; }
.chart text { fill: #333; } .chart .note { fill: #666; font-size: 10px; }
.chart .grid { stroke: #e3e3e3; } .chart .rule { stroke: #999; }
.chart .line { fill: none; stroke-width: 1.6; }
.chart .s0.line { stroke: #1f5fa8; } .chart .s1.line { stroke: #c2410c; }
.chart .band { stroke: none; fill-opacity: 0.2; } .chart .s0.band { fill: #1f5fa8; } .chart .s1.band { fill: #c2410c; }
.chart .chance { fill: none; stroke: #666; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) {
  .chart { background: #111; } .chart text { fill: #ddd; } .chart .note { fill: #aaa; }
  .chart .grid { stroke: #2a2a2a; } .chart .rule { stroke: #777; } .chart .chance { stroke: #aaa; }
  .chart .s0.line { stroke: #6db1ff; } .chart .s1.line { stroke: #fb923c; }
  .chart .s0.band { fill: #6db1ff; } .chart .s1.band { fill: #fb923c; }
}
"""


def concepts_table(concepts: Concepts) -> Group:
    """The result in words and tables: the samples, shares by layer, trends, and clusters in words."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [*map(Text, _lines(concepts)), _share_table(concepts), _label_table(concepts)]
    if concepts.trends:
        parts.append(_trend_table(concepts))
    if concepts.against is not None:
        parts.append(_against_table(concepts.against))
    told = _spread(concepts.states)
    parts.append(_example_table("Without a label (the model's own)", ((s.layer, s.unlabelled_examples) for s in told)))
    parts.append(_example_table("With labels of several kinds", ((s.layer, s.several_examples) for s in told)))
    return Group(*parts)


def _lines(concepts: Concepts) -> list[str]:
    samples = concepts.samples
    settings = concepts.provenance["settings"]
    lines = [
        f"{concepts.model}: {len(samples)} samples of {_range(one.occurrences for one in samples)} occurrences of "
        f"{_range(one.types for one in samples)} words, from {_range(one.words for one in samples)} words of text",
        f"{settings['clusters']} clusters a layer; a label is carried by over {settings['theta']:.0%} of a cluster",
    ]
    if unaligned := sum(one.unaligned for one in samples):
        every = sum(one.words for one in samples)
        lines.append(f"{unaligned:,} of {every:,} words share a token with another and were left out")
    if concepts.missing:
        lines.append(f"without {', '.join(concepts.missing)}: no syntactic and semantic labels")
    return lines


def _range(numbers: Iterable[int]) -> str:
    every = sorted(numbers)
    return f"{every[0]:,}" if every[0] == every[-1] else f"{every[0]:,} to {every[-1]:,}"


def _share_table(concepts: Concepts) -> Table:
    rows = []
    for state in concepts.states:
        shares = [*state.kinds, state.unlabelled, state.several]
        ward = "" if state.ward is None else f"{state.ward.agreement.estimate:.2f}"
        rows.append([str(state.layer), *map(_share, shares), f"{state.few_words.estimate:.0%}", ward])
    head = ["layer", *concepts.kinds, "no label", "several kinds", "too few words", "Ward"]
    caption = (
        "Shares of clusters with their 95 % intervals, in percent; behind the stroke the share by chance (labels "
        "shuffled over words). Ward: adjusted Rand index of both clusterings."
    )
    return Table.of("Clusters with labels", head, rows, caption=caption)


def _share(share: Share) -> str:
    value = share.share
    return f"{100 * value.estimate:.0f} [{100 * value.low:.0f}, {100 * value.high:.0f}] / {100 * share.chance:.0f}"


def _label_table(concepts: Concepts) -> Table:
    rows = [[str(state.layer), *(_percent(share) for share in state.labels)] for state in concepts.states]
    head = ["layer", *(share.name for share in concepts.states[0].labels)]
    return Table.of("By set of labels, percent / by chance", head, rows)


def _percent(share: Share) -> str:
    return f"{100 * share.share.estimate:.0f} / {100 * share.chance:.0f}"


def _trend_table(concepts: Concepts) -> Table:
    rows = [[trend.name, _points(trend.slope), trend.claim or "", trend.verdict or ""] for trend in concepts.trends]
    head = ["share beyond chance", "from first to last, points", "claimed", "verdict"]
    return Table.of("Over depth", head, rows, words=["claimed", "verdict"])


def _points(value: Estimate) -> str:
    return f"{signed(100 * value.estimate, 0)} {bracketed(100 * value.low, 100 * value.high, 0)}"


def _against_table(against: AgainstConcepts) -> Table:
    def cells(changes: Sequence[Change]) -> list[str]:
        return [_points(change.change) for change in changes]

    rows = [[f"{row.layer} ({row.other_layer})", *cells(row.changes)] for row in against.layers]
    rows.append(["all", *cells(against.overall)])
    head = ["layer (there)", *(change.name for change in against.overall)]
    return Table.of(f"Change from {against.model}, points", head, rows)


def _spread(states: Sequence[LayerConcepts]) -> list[LayerConcepts]:
    """The first, the middle and the last."""
    return [states[number] for number in sorted({0, len(states) // 2, len(states) - 1})]


def _example_table(title: str, layers: Iterable[tuple[int, Sequence[Example]]]) -> Table:
    rows = [
        [str(layer), " ".join(example.words), ", ".join(example.labels), f"{example.occurrences} of {example.types}"]
        for layer, examples in layers
        for example in examples[:_TOLD]
    ]
    return Table.of(title, ["layer", "words", "labels", "occurrences"], rows, words=["words", "labels"])


def draw_concepts(concepts: Concepts) -> str:
    """An SVG drawing: a panel for each kind of labels, with its share over depth, interval and chance.

    With `--against` the other model's share stands beside, at the layers that were measured in both.
    """
    names = [*concepts.kinds, "unlabelled", "several"]
    height = _TOP + len(names) * (_PANEL + _GAP) + 6
    title = f"Concepts of {concepts.model}"
    root = svg.document("concepts", title, "Share of clusters with each kind of labels, over depth", _STYLE, height)
    svg.add(root, "text", title, x=0, y=16)
    note = "Percent of clusters. Band: 95 % interval. Short dashes: by chance"
    svg.add(root, "text", note, x=0, y=30, class_="note")
    across = svg.Scale(0, concepts.layers, _LEFT, svg.WIDTH - _RIGHT)
    for number, name in enumerate(names):
        top = _TOP + number * (_PANEL + _GAP)
        _panel(root, concepts, name, across, top, last=number == len(names) - 1)
    return svg.content(root)


def _panel(root: svg.Element, concepts: Concepts, name: str, across: svg.Scale, top: float, *, last: bool) -> None:
    shares = [(state.layer, _named(state, name)) for state in concepts.states]
    before = []
    if concepts.against is not None:
        changes = [(row.layer, change) for row in concepts.against.layers for change in row.changes]
        before = [(layer, 100 * change.before) for layer, change in changes if change.name == name]
    highest = max([100 * max(share.share.high, share.chance) for _, share in shares] + [value for _, value in before])
    up = svg.Scale(0, min(100.0, max(5.0, 1.05 * highest)), top + _PANEL, top)
    words = name if concepts.against is None else f"{name} (long dashes: {concepts.against.model})"
    svg.axis_left(root, up, _LEFT, svg.WIDTH - _RIGHT, words)

    def points(values: Iterable[tuple[int, float]]) -> list[tuple[float, float]]:
        return [(across(layer), up(min(up.high, max(0.0, value)))) for layer, value in values]

    upper = points((layer, 100 * share.share.high) for layer, share in shares)
    lower = points((layer, 100 * share.share.low) for layer, share in shares)
    svg.band(root, upper, lower, 0)
    chance = svg.line(root, points((layer, 100 * share.chance) for layer, share in shares), 0)
    chance.set("class", "chance")
    line = svg.line(root, points((layer, 100 * share.share.estimate) for layer, share in shares), 0)
    svg.add(line, "title", f"{name}: share of clusters")
    if before:
        svg.line(root, points(before), 1)
    if last:
        svg.axis_below(root, across, top + _PANEL, "state (0 enters the first layer)", whole=True)


def _named(state: LayerConcepts, name: str) -> Share:
    return next(share for share in (*state.kinds, state.unlabelled, state.several) if share.name == name)
