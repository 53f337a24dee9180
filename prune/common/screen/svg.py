"""Drawing for the report: SVG elements, axes and marks whose colours come from the page's own style sheet.

Every drawing is `WIDTH` units wide, which is near a phone's width in pixels, so that its words stay legible there.
Elements carry classes (`s0`, `s1`, ... for the series) and no colours: the page sets them for light, dark and print.
Text is escaped by ElementTree; nothing is put together from strings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

WIDTH = 380.0
SERIES = 8  # colours, dashes and markers before they begin anew
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 3", "1 2", "6 2 1 2 1 2")

Element = ElementTree.Element


def drawing(name: str, title: str, description: str, height: float, *, width: float = WIDTH) -> Element:
    """An empty drawing that a screen reader reads as one image; `name` is unique on the page."""
    root = Element("svg", {"viewBox": f"0 0 {number(width)} {number(height)}", "class": "chart", "role": "img"})
    root.attrib |= {"aria-labelledby": f"{name}-title {name}-desc", "id": name}
    add(root, "title", title, id=f"{name}-title")
    add(root, "desc", description, id=f"{name}-desc")
    return root


def document(name: str, title: str, description: str, style: str, height: float, *, width: float = WIDTH) -> Element:
    """An empty drawing that is a file of its own, with its style."""
    root = drawing(name, title, description, height, width=width)
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "width": number(width), "height": number(height)}
    add(root, "style", style)
    return root


def content(root: Element) -> str:
    """What the file of such a drawing holds."""
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def add(parent: Element, tag: str, text: str | None = None, /, **attributes: str | float) -> Element:
    """A child element; `class_` stands for class, and an underscore in a name for a hyphen."""
    plain = {
        key.rstrip("_").replace("_", "-"): value if isinstance(value, str) else number(value)
        for key, value in attributes.items()
    }
    child = ElementTree.SubElement(parent, tag, plain)
    child.text = text
    return child


def markup(root: Element) -> Markup:
    """The drawing as HTML that a template may take as it is."""
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def number(value: float) -> str:
    """A coordinate with one digit after the point at most."""
    return f"{value:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Scale:
    """A linear map from `low .. high` of a quantity to `start .. end` of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)

    def marks(self, most: int) -> list[tuple[float, str]]:
        """At most so many round values, each with its words."""
        values = ticks(self.low, self.high, most=most)
        return [*zip(values, tick_words(values), strict=True)]


@dataclass(frozen=True)
class LogLike(Scale):
    """Linear near 0 and logarithmic beyond `linear` > 0, on both sides of 0: asinh(value / linear)."""

    linear: float = 1.0

    @classmethod
    def around(cls, values: Sequence[float], linear: float, start: float, end: float) -> LogLike:
        """From the least to the greatest of the values, with some air at both ends; none beyond 0 if they end there."""
        bent = [math.asinh(value / linear) for value in values]
        low, high = padded(bent)
        low, high = (0.0 if min(bent) == 0 else low), (0.0 if max(bent) == 0 else high)
        return cls(linear * math.sinh(low), linear * math.sinh(high), start, end, linear)

    def __call__(self, value: float) -> float:
        low, high, at = (math.asinh(v / self.linear) for v in (self.low, self.high, value))
        return Scale(low, high, self.start, self.end)(at)

    def marks(self, most: int) -> list[tuple[float, str]]:
        """Zero and powers of ten, with halves and fifths between them where there is room."""
        powers = range(math.floor(math.log10(self.linear)), math.ceil(math.log10(max(-self.low, self.high, 10))) + 1)
        gap = abs(self.end - self.start) / (2 * most)
        taken: list[float] = []
        for factor in (0, 1, 2, 5):
            for power in powers:
                for value in (factor * 10.0**power, -factor * 10.0**power):
                    apart = all(abs(self(value) - self(other)) >= gap for other in taken)
                    if self.low <= value <= self.high and apart:
                        taken.append(value)
        return [(value, f"{value + 0.0:g}".replace("-", "−")) for value in sorted(taken)]


def padded(values: Sequence[float], *, include: Sequence[float] = ()) -> tuple[float, float]:
    """Least and greatest of the values and of what must be in sight, with some air at both ends."""
    every = [*values, *include]
    low, high = min(every), max(every)
    air = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - air, high + air


def ticks(low: float, high: float, *, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from low to high, `most` at most; `whole`: integers."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    if whole:
        step = max(1.0, step)
    for factor in (1, 2, 5, 10, 20):
        first, last = math.ceil(low / (step * factor) - 1e-9), math.floor(high / (step * factor) + 1e-9)
        if last - first + 1 <= most:
            return [k * step * factor for k in range(first, last + 1)]
    return [low, high]


def tick_words(values: Sequence[float]) -> list[str]:
    """Ticks as text, with as many digits as tell them apart and a true minus sign."""
    gaps = [abs(b - a) for a, b in itertools.pairwise(values)]
    digits = max(0, -math.floor(math.log10(min(gaps)) + 1e-9)) if gaps else 1
    return [f"{value + 0.0:.{digits}f}".replace("-", "−") for value in values]


def series_class(index: int) -> str:
    """The style sheet's class of a series: its colour."""
    return f"s{index % SERIES}"


def line(parent: Element, points: Sequence[tuple[float, float]], index: int) -> Element:
    """A line through points in the colour and the dashes of a series."""
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    drawn = add(parent, "path", d=path, class_=f"line {series_class(index)}")
    if dash := _DASHES[index % SERIES]:
        drawn.set("stroke-dasharray", dash)
    return drawn


def band(
    parent: Element, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], index: int
) -> None:
    """The area between two lines over the same places."""
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in [*upper, *reversed(lower)]) + "Z"
    add(parent, "path", d=path, class_=f"band {series_class(index)}")


def marker(parent: Element, x: float, y: float, index: int, *, size: float = 4.5) -> Element:
    """A mark of the series' own shape, so that it reads without colour."""
    look = {"class_": f"mark {series_class(index)}"}
    shape = index % SERIES
    if shape == 0:
        return add(parent, "circle", cx=x, cy=y, r=size, **look)
    if shape == 1:
        side = 1.8 * size
        return add(parent, "rect", x=x - side / 2, y=y - side / 2, width=side, height=side, **look)
    corners = _SHAPES[shape]
    points = " ".join(f"{number(x + size * a)},{number(y + size * b)}" for a, b in corners)
    return add(parent, "polygon", points=points, **look)


def _star(tips: int, inner: float) -> list[tuple[float, float]]:
    turns = [math.pi * k / tips for k in range(2 * tips)]
    radii = [1.3 if k % 2 == 0 else inner for k in range(2 * tips)]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, turns, strict=True)]


def _cross(arm: float, half: float) -> list[tuple[float, float]]:
    quarters = [[(half, -half), (arm, -half), (arm, half)]]
    while len(quarters) < 4:
        quarters.append([(-b, a) for a, b in quarters[-1]])
    return [corner for quarter in quarters for corner in quarter]


_SHAPES = {
    2: [(0.0, -1.25), (1.2, 0.95), (-1.2, 0.95)],
    3: [(0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)],
    4: [(0.0, 1.25), (1.2, -0.95), (-1.2, -0.95)],
    5: _cross(1.2, 0.4),
    6: _star(5, 0.55),
    7: [(math.sin(math.pi * k / 3) * 1.2, math.cos(math.pi * k / 3) * 1.2) for k in range(6)],
}


def sample() -> Element:
    """An empty drawing of 28 x 14 for a legend's sample, which a screen reader passes over."""
    return Element("svg", {"viewBox": "0 0 28 14", "class": "key", "aria-hidden": "true"})


def key(index: int, *, dashed: bool = False) -> Markup:
    """A legend's sample of a series: its marker, on a piece of its line where `dashed`."""
    root = sample()
    if dashed:
        line(root, [(1, 7), (27, 7)], index)
    marker(root, 14, 7, index)
    return markup(root)


def chance_key() -> Markup:
    """A legend's sample of the level of blind guesses."""
    root = sample()
    add(root, "line", x1=1, x2=27, y1=7, y2=7, class_="chance")
    return markup(root)


def noise_key() -> Markup:
    """A legend's sample of the band within which a change is noise."""
    root = sample()
    add(root, "rect", x=1, y=1, width=26, height=12, class_="noise")
    return markup(root)


def axis_below(
    root: Element, scale: Scale, bottom: float, label: str, *, up_to: Sequence[float] = (), whole: bool = False
) -> None:
    """A horizontal axis at `bottom`, its numbers, and its label under them.

    Grid lines run over each pair of `up_to`: (top, bottom, top, bottom, ...), which leaves room for headings.
    """
    group = add(root, "g", class_="axis")
    values = ticks(scale.low, scale.high, most=7, whole=whole)
    for value, words in zip(values, tick_words(values), strict=True):
        x = scale(value)
        for high, low in zip(up_to[::2], up_to[1::2], strict=True):
            add(group, "line", x1=x, x2=x, y1=high, y2=low, class_="grid")
        add(group, "text", words, x=x, y=bottom + 16, text_anchor="middle")
    add(group, "line", x1=scale.start, x2=scale.end, y1=bottom, y2=bottom, class_="rule")
    add(group, "text", label, x=(scale.start + scale.end) / 2, y=bottom + 34, text_anchor="middle", class_="label")


def axis_left(root: Element, scale: Scale, left: float, right: float, label: str) -> None:
    """A vertical axis at `left` with grid lines to `right`; its label stands above it, level, easy to read."""
    group = add(root, "g", class_="axis")
    for value, words in scale.marks(6):
        y = scale(value)
        add(group, "line", x1=left, x2=right, y1=y, y2=y, class_="grid")
        add(group, "text", words, x=left - 6, y=y + 4, text_anchor="end")
    add(group, "text", label, x=0, y=min(scale.start, scale.end) - 12, class_="label")
