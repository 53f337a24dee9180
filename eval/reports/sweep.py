"""The parts of the report that stand on sweep.json: curves, block maps, their tables, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.reports.charts import Curve, Point, curves
from eval.reports.maps import block_map
from eval.reports.model import Figure, Key, Part
from eval.reports.tables import Cell, Column, Table, change, count, many, prose_table, score, words
from eval.reports.text import NONE, bits, counted, first_losses, listed, nll_change, onset, plain, task_name
from prune.common.svg import chance_key, key

TOGETHER = 5  # lines that one chart holds legibly; more stand in a chart of their own each


def curves_part(sweep: Mapping[str, Any]) -> Part | None:
    """Accuracy and answer NLL against layers dropped; None where the sweep has fewer than two sizes."""
    found = [c for c in sweep.get("curves") or [] if len(c["points"]) > 1]
    if not found:
        return None
    full = sweep["layers"]
    across = f"layers dropped, of {full}"
    measures = (
        ("accuracy", "accuracy, % of questions", "Accuracy"),
        ("answer_greedy", "answers that greedy decoding would give, %", "Right first choices"),
        (_NLL, "change of answer NLL, bits per answer (higher is worse)", "Change of answer NLL"),
    )
    figures: list[Figure] = []
    for measure, up, title in measures:
        lines = [
            _curve(c, i, measure, sweep.get("healed") or [])
            for i, c in enumerate(found)
            if measure != "answer_greedy" or all(p.get("accuracy") is None for p in c["points"])
        ]
        lines = [line for line in lines if line.points]
        if lines and (measure == "answer_greedy" and not any(p.y > 0 for line in lines for p in line.points)):
            continue  # nothing but zeros; the table has them
        groups = _grouped(lines)
        reach = _reach(lines) if len(groups) > 1 else []  # charts beside each other are of one scale
        for place, group in enumerate(groups):
            what = listed([line.label for line in group])
            described = f"{title} as layers are dropped: {what}. {_course(group)}{_guessing(group)}"
            name = f"{measure.replace('_', '-')}-{place}"
            include = [0.0, *reach]
            drawn = curves(name, title, described, across=across, up=up, lines=group, include=include)
            if len(groups) > 1:
                figures.append(Figure(what, drawn))
            else:
                figures.append(Figure(title, drawn, under=what if len(group) == 1 and len(found) > 1 else ""))
    keys = [Key(task_name(c), key(i, dashed=True)) for i, c in enumerate(found)] if len(found) <= TOGETHER else []
    if any(c.get("chance") for c in found):
        keys.append(Key("chance", chance_key()))
    said = []
    if len(found) <= TOGETHER:
        said = [
            f"{task_name(c)}: " + "; ".join(t for t in (first_losses(c, what=w) for w in _CHANGES) if t) + "."
            for c in found
        ]
    starts = sweep.get("starts")
    chosen = f"Each size is cut at its {starts} start." if starts in ("best", "deepest") else ""
    if starts == "all" or isinstance(starts, list):
        chosen = (
            "Each size stands at the start that costs least over all domains, one start for all, chosen on these very "
            "questions: a fresh set would show a little more loss."
        )
    lead = f"One block of layers is dropped from {counted(full, 'layer')}, and all else is left as it is. {chosen}"
    if sweep.get("healed"):
        lead += " Ringed marks are cuts with their healing adapter."
    asked = {task_name(task): task["n"] for task in sweep.get("tasks") or []}
    tables = (*([_onset(found)] if not said else []), _table(found, sweep.get("healed") or [], asked))
    title = "As layers are dropped"
    return Part("curves", title, lead.strip(), tuple(said), tuple(keys), tuple(figures), tables, short="Layers dropped")


_NLL = "answer_nll_bits_difference"
_CHANGES = ("accuracy_difference", _NLL)


def _onset(found: Sequence[Mapping[str, Any]]) -> Table:
    """From which size on each task loses beyond doubt, in the place of as many sentences."""
    columns = (
        Column("Questions", "domain and protocol", words=True),
        Column("Accuracy falls from", "layers dropped at which the whole 95 % interval is a loss for the first time"),
        Column("Right answers less likely from", "the same by answer NLL"),
    )
    body = tuple((words(task_name(c)), *(_begins(onset(c, what=w)) for w in _CHANGES)) for c in found)
    return Table("onset", "Where a loss begins, in layers dropped", columns, body, shown=True)


def _begins(size: int | None) -> Cell:
    return Cell(NONE) if size is None else count(size)


def _reach(lines: Sequence[Curve]) -> list[float]:
    every = [v for line in lines for p in (*line.points, *line.marks) for v in (p.y, p.low, p.high) if v is not None]
    return [min(every), max(every)]


def _curve(curve: Mapping[str, Any], index: int, measure: str, healed: Sequence[Mapping[str, Any]]) -> Curve:
    """A task's line. Shares are in per cent; of the NLL it is the change, whose paired band shows what a cut does."""
    scale = 1.0 if measure == _NLL else 100.0
    points = [_point(p["size"], p[measure], scale) for p in curve["points"] if p.get(measure) is not None]
    if measure == _NLL and points:
        points = [*(Point(0, 0.0, 0.0, 0.0) for p in curve["points"] if p["size"] == 0), *points]
    chance = curve.get("chance") if measure == "accuracy" else None
    own = [p for p in healed if task_name(p) == task_name(curve) and p.get(measure) is not None]
    marks = tuple(_point(p["size"], p[measure], scale) for p in own)
    return Curve(index, task_name(curve), tuple(points), 100 * chance if chance else None, marks)


def _point(size: int, value: Any, scale: float) -> Point:
    if isinstance(value, Mapping):
        return Point(size, *(scale * value[end] for end in ("estimate", "low", "high")))
    return Point(size, scale * value)


def _guessing(lines: Sequence[Curve]) -> str:
    """The level of blind guesses in words."""
    levels = sorted({f"{line.chance:.3g}" for line in lines if line.chance is not None})
    return f" Blind guesses are right in {listed(levels)} %." if levels else ""


def _grouped(lines: Sequence[Curve]) -> list[list[Curve]]:
    """All lines in one chart, or where they are many one chart each, all in the first series' look."""
    if len(lines) <= TOGETHER:
        return [list(lines)] if lines else []
    return [[replace(line, series=0)] for line in lines]


def _course(lines: Sequence[Curve]) -> str:
    ends = [
        f"{line.label} from {line.points[0].y:.3g} at {line.points[0].x:g} to {line.points[-1].y:.3g} at "
        f"{line.points[-1].x:g} layers dropped"
        for line in lines
    ]
    return "; ".join(ends) + "."


def _table(found: Sequence[Mapping[str, Any]], healed: Sequence[Mapping[str, Any]], asked: Mapping[str, int]) -> Table:
    """Every point of the curves and every healed cut; `asked` is the number of questions of each task."""
    greedy = any(p.get("answer_greedy") is not None for c in found for p in c["points"])
    columns = (
        Column("Questions", "domain and protocol", words=True),
        Column("n", "questions asked"),
        Column("Size", "layers dropped"),
        Column("Start", "first layer dropped, from 0"),
        Column("Accuracy %", "with its 95 % interval"),
        *([Column("First choice %", "answers that greedy decoding would give word for word")] if greedy else []),
        Column("NLL bits", "answer NLL, with its 95 % interval"),
        Column("Change bits", "change of answer NLL against the full model, 95 % paired interval"),
    )
    body = []
    for curve in found:
        own = [p for p in healed if task_name(p) == task_name(curve)]
        for p in [*curve["points"], *own]:
            accuracy, start = p.get("accuracy"), p.get("start")
            body.append(
                (
                    words(task_name(curve)),
                    many(asked[task_name(curve)]) if task_name(curve) in asked else Cell(NONE),
                    Cell(f"{p['size']}", "healed" if p in own else "", p["size"]),
                    Cell(NONE) if start is None else count(start),
                    Cell(NONE) if accuracy is None else score(accuracy, 100, 0),
                    *([_share(p.get("answer_greedy"))] if greedy else []),
                    score(p["answer_nll_bits"], 1, 2),
                    change(p.get("answer_nll_bits_difference"), 1, 2, worse_above=True),
                )
            )
    return Table("sizes", "Each size of cut, as measured", columns, tuple(body))


def _share(value: Any) -> Cell:
    if value is None:
        return Cell(NONE)
    if isinstance(value, Mapping):
        return score(value, 100, 0)
    return Cell(plain(100 * value, 0), sort=value)


def map_part(sweep: Mapping[str, Any]) -> Part | None:
    """What dropping each block costs, start by size, one map for each task; None where few blocks were measured."""
    figures, tables = [], []
    for place, found in enumerate(sweep.get("maps") or []):
        costs = {
            (size, start): value
            for size, row in zip(found["sizes"], found["answer_nll_bits_difference"], strict=True)
            for start, value in zip(found["starts"], row, strict=True)
            if value is not None and size > 0
        }
        if len(costs) < 2:
            continue
        title = task_name(found)
        cheap, dear = min(costs, key=lambda c: costs[c]), max(costs, key=lambda c: costs[c])
        described = (
            f"What dropping each of {len(costs)} blocks costs in {title}, as the rise of answer NLL in bits: least for "
            f"{_block(cheap)} ({costs[cheap]:.2f} bits), most for {_block(dear)} ({costs[dear]:.2f} bits)."
        )
        unit = "rise of answer NLL, bits (log scale)"
        drawn = block_map(f"map-{place}", title, described, layers=sweep["layers"], costs=costs, unit=unit)
        figures.append(Figure(title, drawn, ""))
        tables += _map_rows(title, costs)
    if not figures:
        return None
    lead = (
        "Each cell is the model without one block of layers: where it starts along the bottom, how many layers it "
        "takes upwards. Dark blocks are the ones these questions need; a dot marks the cheapest start of each size."
    )
    columns = (
        Column("Questions", words=True),
        Column("Size", "layers dropped"),
        Column("Cheapest start", "first layer dropped, from 0"),
        Column("Costs bits", "rise of answer NLL over the full model"),
        Column("Dearest start", "first layer dropped, from 0"),
        Column("Costs bits", "rise of answer NLL over the full model"),
        Column("Starts", "how many were measured"),
    )
    table = Table("map-table", "The cheapest and the dearest block of each size", columns, tuple(tables))
    return Part("map", "What each block is for", lead, (), (), tuple(figures), (table,), short="Block map")


def sweep_prose_part(sweep: Mapping[str, Any]) -> Part | None:
    """Loss on held-out prose against layers dropped, at the starts of the curves; None where none was measured."""
    found = sweep.get("curves") or []
    shown = {p["variant"] for p in found[0]["points"]} if found else set()
    rows = [row for row in sweep.get("prose") or [] if not shown or row["variant"] in shown]
    texts = list(dict.fromkeys(row.get("text") or "prose" for row in rows))
    lines = [
        Curve(i, text, tuple(Point(r["size"], r["bits_per_byte"]) for r in rows if (r.get("text") or "prose") == text))
        for i, text in enumerate(texts)
    ]
    if not rows or max(len(line.points) for line in lines) < 2:
        return None
    title = "Prose loss as layers are dropped"
    across = f"layers dropped, of {sweep['layers']}"
    up = "bits per byte (higher is worse)"
    drawn = curves("prose-curve", title, f"{title}. {_course(lines)}", across=across, up=up, lines=lines)
    legend = tuple(Key(line.label, key(line.series, dashed=True)) for line in lines) if len(lines) > 1 else ()
    named = [{**row, "model": f"{row['size']} layers dropped" if row["size"] else "the full model"} for row in rows]
    lead = "How well each cut still predicts text that none of the questions stands in."
    table = prose_table(named, "the full model")
    return Part("prose", "Held-out prose", lead, (), legend, (Figure("", drawn, ""),), (table,), short="Prose")


def _block(place: tuple[int, int]) -> str:
    size, start = place
    return f"layer {start}" if size == 1 else f"layers {start} to {start + size - 1}"


def _map_rows(title: str, costs: Mapping[tuple[int, int], float]) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for size in sorted({n for n, _ in costs}):
        own = {start: cost for (n, start), cost in costs.items() if n == size}
        cheap, dear = min(own, key=lambda s: own[s]), max(own, key=lambda s: own[s])
        rows.append(
            (
                words(title),
                count(size),
                count(cheap),
                Cell(plain(own[cheap], 2), sort=own[cheap]),
                count(dear),
                Cell(plain(own[dear], 2), sort=own[dear]),
                count(len(own)),
            )
        )
    return rows


def sweep_sentence(sweep: Mapping[str, Any]) -> str:
    """Which task suffers most at the largest cut, for the top of a report of its own; "" where nothing tells."""
    found = [c for c in sweep.get("curves") or [] if len(c["points"]) > 1]
    last = [(c, c["points"][-1]) for c in found if c["points"][-1].get("answer_nll_bits_difference")]
    if not last:
        return ""
    sure = [pair for pair in last if pair[1]["answer_nll_bits_difference"]["low"] > 0]
    worst, point = max(sure or last, key=lambda pair: nll_change(pair[1])["estimate"])
    size, change = counted(point["size"], "layer"), point["answer_nll_bits_difference"]
    if not sure:
        return (
            f"At {size} dropped, right answers become less likely beyond doubt in no domain; the largest change is "
            f"that of {task_name(worst)}, {bits(change)}."
        )
    return (
        f"At {size} dropped, {task_name(worst)} suffers most: right answers become less likely by "
        f"{bits(change).removeprefix('+')}."
    )
