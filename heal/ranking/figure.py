"""rank.json as a drawing: the mean score of each bin for each domain, method beside method."""

from __future__ import annotations

from collections.abc import Sequence

from heal.ranking.document import MethodScores, Ranking
from heal.ranking.findings.bins import BinMean, DomainMean
from prune.common.screen import svg

_MOST = 40  # bins that are drawn: those of most documents
_TELLING = 5  # documents of a bin whose interval sets the scale; those of smaller bins are cut at the edge
_LABEL, _COLUMN, _GAP = 264.0, 190.0, 20.0  # widths
_TOP, _HEAD, _LANE, _BOTTOM = 62.0, 20.0, 7.0, 44.0  # heights; a lane is one domain's part of a bin's row
_LONGEST = 32  # characters of a bin's name
_STYLE = """
.chart { background: #fff; font: 11px system-ui, sans-serif; }
.chart text { fill: #333; } .chart .note { fill: #666; font-size: 10px; }
.chart .grid { stroke: #e3e3e3; } .chart .rule { stroke: #999; } .chart .zero { stroke: #666; stroke-dasharray: 3 3; }
.chart .bar { stroke-width: 1.6; } .chart .stripe { fill: #f5f5f5; }
.chart .s0 { fill: #1f5fa8; stroke: #1f5fa8; } .chart .s1 { fill: #c2410c; stroke: #c2410c; }
.chart .s2 { fill: #2f7d32; stroke: #2f7d32; } .chart .s3 { fill: #7e3794; stroke: #7e3794; }
.chart .s4, .chart .s5, .chart .s6, .chart .s7 { fill: #444; stroke: #444; }
@media (prefers-color-scheme: dark) {
  .chart { background: #111; } .chart text { fill: #ddd; } .chart .note { fill: #aaa; }
  .chart .grid { stroke: #2a2a2a; } .chart .rule { stroke: #777; } .chart .zero { stroke: #aaa; }
  .chart .stripe { fill: #1b1b1b; }
  .chart .s0 { fill: #6db1ff; stroke: #6db1ff; } .chart .s1 { fill: #fb923c; stroke: #fb923c; }
  .chart .s2 { fill: #7cc47f; stroke: #7cc47f; } .chart .s3 { fill: #c99add; stroke: #c99add; }
  .chart .s4, .chart .s5, .chart .s6, .chart .s7 { fill: #ccc; stroke: #ccc; }
}
"""


def draw_ranking(ranking: Ranking) -> str:
    """An SVG drawing: a row for each bin, a column for each method, a mark with its interval for each domain.

    Bins stand in the order of their score for the first domain by the first method, the best on top. Methods have
    units, and so scales, of their own. Domains of made-up queries are left out.
    """
    domains = [one.domain for one in ranking.methods[0].domains]
    bins = _order(ranking.methods[0].bins, domains[0])
    row = _HEAD / 2 + _LANE * len(domains)
    width = _LABEL + (_COLUMN + _GAP) * len(ranking.methods)
    height = _TOP + _HEAD + row * len(bins) + _BOTTOM
    title = f"Ranked for {' and '.join(domains)}: {ranking.model}"
    root = svg.document(
        "ranking", title, "Mean score of each bin of documents by domain and method", _STYLE, height, width=width
    )
    svg.add(root, "text", title, x=0, y=16)
    left_out = len(ranking.methods[0].bins) - len(bins)
    note = "Mean score, with its 95 % interval over documents; in brackets how many there are"
    svg.add(root, "text", note + (f"; {left_out} smaller bins left out" if left_out else ""), x=0, y=30, class_="note")
    _legend(root, domains)
    for number, one in enumerate(bins):
        top = _TOP + _HEAD + row * number
        if number % 2 == 0:
            svg.add(root, "rect", x=0, y=top, width=width, height=row, class_="stripe")
        svg.add(root, "text", _name(one), x=4, y=top + row / 2 + 4)
    for number, method in enumerate(ranking.methods):
        found = {_key(one): one for one in method.bins}
        left = _LABEL + (_COLUMN + _GAP) * number
        _column(root, method, [found[_key(one)] for one in bins], domains, left, row)
    return svg.content(root)


def _legend(root: svg.Element, domains: Sequence[str]) -> None:
    x = 6.0
    for index, domain in enumerate(domains):
        svg.marker(root, x, 46, index, size=3.5)
        svg.add(root, "text", domain, x=x + 9, y=50)
        x += 24 + 7.0 * len(domain)


def _column(
    root: svg.Element, method: MethodScores, bins: Sequence[BinMean], domains: Sequence[str], left: float, row: float
) -> None:
    top, bottom = _TOP + _HEAD, _TOP + _HEAD + row * len(bins)
    means = [[_of(one, domain) for domain in domains] for one in bins]
    across = svg.Scale(*_span(bins, means), left, left + _COLUMN)
    svg.add(root, "text", method.method, x=left, y=_TOP + 10)
    group = svg.add(root, "g", class_="axis")
    for value, words in across.marks(4):
        x = across(value)
        svg.add(group, "line", x1=x, x2=x, y1=top, y2=bottom, class_="zero" if value == 0 else "grid")
        svg.add(group, "text", words, x=x, y=bottom + 16, text_anchor="middle")
    svg.add(group, "line", x1=left, x2=left + _COLUMN, y1=bottom, y2=bottom, class_="rule")
    svg.add(group, "text", method.unit, x=left, y=bottom + 32, class_="note")
    for number, some in enumerate(means):
        for index, mean in enumerate(some):
            y = top + row * number + _HEAD / 4 + _LANE * (index + 0.5)
            place = svg.add(root, "g")
            svg.add(place, "title", f"{_name(bins[number])}, {mean.domain}: {mean.score:.3g}")
            if mean.interval is not None:
                low, high = (
                    across(min(max(v, across.low), across.high)) for v in (mean.interval.low, mean.interval.high)
                )
                svg.add(place, "line", x1=low, x2=high, y1=y, y2=y, class_=f"bar {svg.series_class(index)}")
            svg.marker(place, across(mean.score), y, index, size=2.6)


def _span(bins: Sequence[BinMean], means: Sequence[Sequence[DomainMean]]) -> tuple[float, float]:
    values = [mean.score for some in means for mean in some]
    for one, some in zip(bins, means, strict=True):
        intervals = [mean.interval for mean in some if mean.interval is not None]
        if one.documents >= _TELLING:
            values += [bound for interval in intervals for bound in (interval.low, interval.high)]
    return svg.padded(values)


def _order(bins: Sequence[BinMean], domain: str) -> list[BinMean]:
    most = sorted(bins, key=lambda one: -one.documents)[:_MOST]
    return sorted(most, key=lambda one: -_of(one, domain).score)


def _of(one: BinMean, domain: str) -> DomainMean:
    return next(mean for mean in one.domains if mean.domain == domain)


def _key(one: BinMean) -> tuple[str, str, str]:
    return one.source, one.topic, one.kind


def _name(one: BinMean) -> str:
    name = " / ".join(filter(None, _key(one)))
    return f"{name if len(name) <= _LONGEST else name[: _LONGEST - 1] + '…'} ({one.documents})"
