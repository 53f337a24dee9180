"""Two-dimensional figures of the report: what each block costs (start by size), and fast against slow answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import groupby

from markupsafe import Markup

from eval.billing.rows.counts import ThinkingCounts
from prune.common.screen.svg import WIDTH, Element, Scale, add, axis_below, drawing, markup, number, sample, ticks

# Viridis from the least cost (bright) to the greatest (dark). Cells of one colour are one path, so that a map of
# thousands of blocks stays small.
_VIRIDIS = (
    "fde725e2e418c5e021a8db348bd64670cf5758c76542be712fb47c24aa831fa0881f958b"
    "228b8d26818e2a768e2f6c8e34608d3a548c3f4889443b84472e7c482071471164440154"
)
COLOURS = [f"#{_VIRIDIS[start : start + 6]}" for start in range(0, len(_VIRIDIS), 6)]
LEAST = 0.05  # bits; costs below it are noise, and all of the brightest colour


def shade(cost: float, most: float) -> int:
    """The step of colour of a cost: logarithmic from `LEAST` to `most`, for the first layers cost beyond all others."""
    if cost <= LEAST or most <= LEAST:
        return 0
    return round(min(1.0, math.log(cost / LEAST) / math.log(most / LEAST)) * (len(COLOURS) - 1))


def block_map(
    name: str, title: str, description: str, *, layers: int, costs: Mapping[tuple[int, int], float], unit: str
) -> Markup:
    """One cell for each block: start along x, size upwards, as in a scan's map; the cheapest start of a size is marked.

    `costs`: (size, start) -> what dropping the block costs, in `unit`.
    """
    sizes = max(n for n, _ in costs)
    side = (WIDTH - 40 - 8) / layers
    tall = max(6.0, min(side, 300.0 / sizes))
    bottom = 30.0 + tall * sizes
    root = drawing(name, title, description, bottom + 102)
    most = max(2 * LEAST, *costs.values())
    across = Scale(-0.5, layers - 0.5, 40, 40 + side * layers)
    axis_below(root, across, bottom, "start layer l (0-based)", whole=True)
    axis = add(root, "g", class_="axis")
    add(axis, "text", "block size n (layers dropped: l … l+n−1)", x=0, y=18, class_="label")
    for size in ticks(1, sizes, most=6, whole=True):
        add(axis, "text", number(size), x=34, y=bottom - (size - 0.5) * tall + 4, text_anchor="end")
    # Cells are drawn in units of their own, start by size, which keeps thousands of them short.
    grid = f"translate({across(-0.5):.2f} {bottom:.2f}) scale({side:.4f} {-tall:.4f})"
    cells = add(root, "g", data_series=title, shape_rendering="crispEdges", transform=grid)
    add(cells, "path", d="".join(_runs(costs, lambda cost: 0)[0]), class_="edge", stroke_width=f"{2 / side:.3f}")
    for step, pieces in sorted(_runs(costs, lambda cost: shade(cost, most)).items()):
        add(cells, "path", d="".join(pieces), fill=COLOURS[step])
    for n in sorted({n for n, _ in costs}):
        start = min((s for size, s in costs if size == n), key=lambda s, n=n: costs[n, s])  # type: ignore[misc]
        radius = max(1.5, min(side, tall) * 0.28)
        add(root, "circle", cx=across(start), cy=bottom - (n - 0.5) * tall, r=radius, class_="best")
    _colour_bar(root, bottom + 52, max(costs.values()), unit)
    return markup(root)


def _runs(costs: Mapping[tuple[int, int], float], step: Callable[[float], int]) -> dict[int, list[str]]:
    """Boxes of neighbouring starts that are of one step, by step."""

    def run(item: tuple[int, tuple[tuple[int, int], float]]) -> tuple[int, int, int]:
        number, ((size, start), cost) = item
        return size, start - number, step(cost)  # the second is the same as long as each start follows the last

    boxes: dict[int, list[str]] = {}
    for (size, _, colour), blocks in groupby(enumerate(sorted(costs.items())), key=run):
        starts = [start for _, ((_, start), _) in blocks]
        boxes.setdefault(colour, []).append(f"M{starts[0]} {size - 1}h{len(starts)}v1h-{len(starts)}z")
    return boxes


def colour_ticks(dearest: float) -> tuple[list[float], list[str]]:
    """Values and words for a scale of colours from `LEAST` to the dearest block, both ends among them."""
    round_ = [k * 10**power for power in range(-2, 4) for k in (1, 2, 5)]
    between = [mark for mark in round_ if 1.4 * LEAST < mark < dearest / 1.4]
    values = [LEAST, *between, dearest]
    return values, [f"≤ {LEAST:g}", *(f"{mark:g}" for mark in between), f"{dearest:.3g}"]


def _colour_bar(root: Element, y: float, dearest: float, unit: str) -> None:
    bar = add(root, "g", class_="axis")
    middle = 40 + (WIDTH - 48) / 2
    if dearest <= LEAST:  # all of one colour
        add(bar, "text", f"no block costs more than {LEAST:g} bits", x=middle, y=y + 10, text_anchor="middle")
        return
    step = (WIDTH - 48) / len(COLOURS)
    for index, colour in enumerate(COLOURS):
        add(root, "rect", x=40 + index * step, y=y, width=step + 0.5, height=9, fill=colour)
    along = Scale(math.log(LEAST), math.log(max(2 * LEAST, dearest)), 40, WIDTH - 8)
    values, words = colour_ticks(dearest)
    last = -math.inf
    for value, word in [*zip(values, words, strict=True)][:-1]:
        x = along(math.log(value))
        if x - last < 34 or (value > LEAST and along(math.log(dearest)) - x < 44):
            continue  # no room between its neighbours
        add(bar, "text", word, x=x, y=y + 24, text_anchor="middle")
        last = x
    add(bar, "text", words[-1], x=along(math.log(dearest)), y=y + 24, text_anchor="end")
    add(bar, "text", unit, x=middle, y=y + 42, text_anchor="middle", class_="label")


TILES = (
    ("right in both", "both-right"),
    ("right at once only", "fast-only"),
    ("right after thinking only", "slow-only"),
    ("wrong in both", "both-wrong"),
)
_SIDE, _LEFT, _TOP = 150.0, 2.0, 6.0


def mosaic(name: str, title: str, description: str, counts: ThinkingCounts) -> Markup:
    """The four counts as areas: columns fast right and fast wrong by their share, each split into slow right and wrong.

    So the first column's upper part is the overthinking rate r_o, and the second column's lower part the correction
    rate r_c: both are read as heights.
    """
    root = drawing(name, title, description, _TOP + _SIDE + 22, width=_SIDE + 2 * _LEFT)
    pairs = [
        ("fast right", counts.both_right, counts.fast_only, ("both-right", "fast-only")),
        ("fast wrong", counts.slow_only, counts.both_wrong, ("slow-only", "both-wrong")),
    ]
    gap = 3.0
    x = _LEFT
    for words, right, wrong, looks in pairs:
        total = right + wrong
        width = (_SIDE - gap) * total / counts.n if counts.n else 0.0
        if total:
            low = (_SIDE - gap) * right / total
            _tile(root, (x, _TOP + _SIDE - low, width, low), right, looks[0])
            _tile(root, (x, _TOP, width, _SIDE - gap - low), wrong, looks[1])
            if width > 52:
                add(root, "text", words, x=x + width / 2, y=_TOP + _SIDE + 15, text_anchor="middle", class_="small")
        x += width + gap
    return markup(root)


def tile_key(look: str) -> Markup:
    """A legend's sample of a tile."""
    root = sample()
    add(root, "rect", x=7, y=0, width=14, height=14, class_=f"tile {look}")
    return markup(root)


def _tile(root: Element, box: tuple[float, float, float, float], count: int, look: str) -> None:
    x, y, width, height = box
    if not count:
        return
    add(root, "rect", x=x, y=y, width=width, height=height, class_=f"tile {look}", data_series=look)
    if width > 8 + 8 * len(str(count)) and height > 16:
        words = add(root, "g", class_=f"tile-word {look}")
        add(words, "text", str(count), x=x + width / 2, y=y + height / 2 + 4.5, text_anchor="middle")
