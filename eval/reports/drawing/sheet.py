"""A section's drawings as one SVG file that stands alone, on paper of its own."""

from __future__ import annotations

import re
import textwrap
from xml.etree import ElementTree

from eval.reports.html import template
from eval.reports.model import Figure, Section
from prune.common.screen.svg import Element, add, drawing, markup

_MARGIN, _GAP = 24.0, 28.0
_LINE = 18.0  # from one line of words to the next
_LETTER = 6.4  # about the width of a letter of the size of a lead
_DARK = "@media screen and (prefers-color-scheme: dark) {"


def sheet(section: Section) -> str:
    """A section's title, lead, legend and drawings as one SVG file; it is light or dark as the reader's system is."""
    most = 5 if section.small else 2  # side by side
    columns = min(most, len(section.figures))
    step = _size(section.figures[0])[0] + _GAP
    width = max(2 * _MARGIN + columns * step - _GAP, 480.0)
    root = drawing("sheet", section.title, section.lead, 0.0, width=width)
    ElementTree.SubElement(root, "style").text = _style()
    add(root, "rect", width="100%", height="100%", class_="paper")
    y = _MARGIN + 16
    add(root, "text", section.title, x=_MARGIN, y=y, class_="title")
    for line in textwrap.wrap(section.lead, int((width - 2 * _MARGIN) / _LETTER)):
        y += _LINE
        add(root, "text", line, x=_MARGIN, y=y)
    y = _legend(root, section, y + _LINE + 6, width) + 1.5 * _LINE
    for first in range(0, len(section.figures), columns):
        row = section.figures[first : first + columns]
        top = y + _LINE * (1 + any(figure.under for figure in row))
        y = max(_figure(root, figure, _MARGIN + column * step, y, top) for column, figure in enumerate(row)) + _GAP
    root.set("xmlns", "http://www.w3.org/2000/svg")
    for name, value in (("width", f"{width:.0f}"), ("height", f"{y:.0f}"), ("viewBox", f"0 0 {width:.0f} {y:.0f}")):
        root.set(name, value)
    return f"{markup(root)}\n"


def _legend(root: Element, section: Section, y: float, width: float) -> float:
    """The samples and names of all series from the left, in as many lines as they take; the last line's height."""
    x = _MARGIN
    for entry in section.legend:
        needed = 34 + _LETTER * len(entry.label) + 22
        if x > _MARGIN and x + needed > width - _MARGIN:
            x, y = _MARGIN, y + _LINE
        _inset(root, entry.sample, (x, y - 11), (28, 14))
        add(root, "text", entry.label, x=x + 34, y=y, class_="label")
        x += needed
    return y


def _figure(root: Element, figure: Figure, x: float, y: float, top: float) -> float:
    """A drawing at `top`, its heading at y, its facts below; where it ends."""
    for line, (words, look) in enumerate(((figure.heading, "heading"), (figure.under, "small"))):
        if words:
            add(root, "text", words, x=x, y=y + line * _LINE, class_=look)
    size = _size(figure)
    _inset(root, figure.drawing, (x, top - 8), size)
    y = top + size[1] + 4
    for first in range(0, len(figure.facts), 2):
        add(root, "text", ", ".join(figure.facts[first : first + 2]), x=x, y=y, class_="small")
        y += _LINE
    return y


def _inset(root: Element, drawn: str, corner: tuple[float, float], size: tuple[float, float]) -> None:
    child = ElementTree.fromstring(drawn)
    for name, value in zip(("x", "y", "width", "height"), (*corner, *size), strict=True):
        child.set(name, f"{value:g}")
    root.append(child)


def _size(figure: Figure) -> tuple[float, float]:
    _, _, width, height = ElementTree.fromstring(figure.drawing).attrib["viewBox"].split()
    return float(width), float(height)


def _style() -> str:
    """The page's rules for drawings, with colours in the place of variables, which not every viewer knows."""
    light, rest = template("figures.css").split(_DARK)
    dark, rules = rest.split("\n}\n", 1)

    def coloured(variables: str) -> str:
        colours = dict(re.findall(r"(--[\w-]+): ([^;]+);", variables))
        return re.sub(r"var\((--[\w-]+)\)", lambda match: colours[match[1]], rules)

    return f"{coloured(light)}\n{_DARK}\n{coloured(dark)}\n}}"
