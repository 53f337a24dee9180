"""The sections of the report that stand on sweep.json: curves, block maps, their tables, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.reports.drawing.charts import CurvePoint, NoiseBand, Plot, PlottedCurve, curves
from eval.reports.drawing.maps import block_map
from eval.reports.model import Figure, Key, Section
from eval.reports.sections.noise import band_over
from eval.reports.wording.tables import QUESTIONS, N, change, count, field, headings, number, prose_table, score
from eval.reports.wording.text import ACCURACY, PER_BYTE, bits, first_losses, listed, onset, task_name
from prune.common.screen.svg import chance_key, key, noise_key
from prune.common.screen.tables import Cell, Column, Table
from prune.common.sizes import counted

Record = Mapping[str, Any]

TOGETHER = 5  # lines that one chart holds legibly; more stand in a chart of their own each
_NLL = "answer_nll_bits_difference"
_MEASURES = (
    ("accuracy", "accuracy, % of questions", "Accuracy"),
    ("answer_greedy", "answers that greedy decoding would give, %", "Right first choices"),
    (_NLL, "change of answer NLL, bits per answer (higher is worse)", "Change of answer NLL"),
)


def curves_section(sweep: Record, noise: Mapping[str, Record] | None = None) -> Section | None:
    """Accuracy and answer NLL against layers dropped; None where the sweep has fewer than two sizes.

    `noise`: by task, its row of a comparison's noise floor, for the grey bands.
    """
    drawn = [curve for curve in sweep["curves"] if len(curve["points"]) > 1]
    if not drawn:
        return None
    together = len(drawn) <= TOGETHER
    legend = [Key(task_name(curve), key(i, dashed=True)) for i, curve in enumerate(drawn)] if together else []
    if any(curve["chance"] for curve in drawn):
        legend.append(Key("chance", chance_key()))
    bands = {name: floor for name, floor in (noise or {}).items() if name in map(task_name, drawn)}
    legend += [Key("noise", noise_key())] if bands else []
    losses = [filter(None, (first_losses(curve, what=w) for w in (ACCURACY, _NLL))) for curve in drawn]
    told = [f"{task_name(curve)}: {'; '.join(each)}." for curve, each in zip(drawn, losses, strict=True)]
    return Section(
        key="curves",
        title="As layers are dropped",
        lead=_lead(sweep),
        findings=tuple(told) if together else (),
        legend=tuple(legend),
        figures=tuple(figure for measure in _MEASURES for figure in _figures(sweep, drawn, bands, *measure)),
        tables=(*([] if together else [_onset_table(drawn)]), sizes_table(sweep)),
        short="Layers dropped",
    )


def _lead(sweep: Record) -> str:
    starts, layers = sweep["starts"], counted(sweep["layers"], "layer")
    lead = f"One block of the {layers} of {_name(sweep)} is dropped, all else is left as it is."
    if starts in ("best", "deepest"):
        lead += f" Each size is cut at its {starts} start."
    else:
        lead += (
            " Each size stands at the start that costs least over all domains, one start for all, chosen on these very "
            "questions: a fresh set would show a little more loss."
        )
    return lead + " Ringed marks are cuts with their healing adapter." * bool(sweep["healed"])


def _name(sweep: Record) -> str:
    """The model: a hub id whole, a long path by its end."""
    return "/".join(Path(sweep["provenance"]["model"]["model"]).parts[-2:])


def _figures(
    sweep: Record, drawn: Sequence[Record], noise: Mapping[str, Record], measure: str, up: str, title: str
) -> list[Figure]:
    """One chart of a measure, or of many tasks one chart each, all of one scale."""
    lines = [_plotted(curve, i, measure, sweep["healed"]) for i, curve in enumerate(drawn)]
    lines = [line for line in lines if line.points]
    if measure == "answer_greedy" and not any(point.y > 0 for line in lines for point in line.points):
        return []  # nothing but zeros; the table has them
    apart = len(lines) > TOGETHER
    groups = [[replace(line, series=0)] for line in lines] if apart else [lines] if lines else []
    figures = []
    for index, group in enumerate(groups):
        what = listed([line.label for line in group])
        described = f"{title} as layers are dropped: {what}. {_course(group)}{_guessing(group)}"
        chart = curves(
            f"{measure.replace('_', '-')}-{index}",
            title,
            described,
            across=f"layers dropped, of {sweep['layers']}",
            up=up,
            lines=group,
            include=[0.0, *(_reach(lines) if apart else [])],
            plot=Plot(noise=_noise(sweep, group, noise, measure)),
        )
        under = what if len(group) == 1 and len(drawn) > 1 else ""
        figures.append(Figure(what, chart) if apart else Figure(title, chart, under=under))
    return figures


def _noise(
    sweep: Record, lines: Sequence[PlottedCurve], noise: Mapping[str, Record], measure: str
) -> tuple[NoiseBand, ...]:
    """The widest band of these tasks around no change of answer NLL; of accuracy, each around the full model's."""
    asked = {task_name(task): task["n"] for task in sweep["tasks"]}
    known = [line for line in lines if line.label in noise]
    if measure == _NLL:
        bands = [band_over(noise[line.label], "answer_nll_bits", asked[line.label]) for line in known]
        return (NoiseBand(-max(bands), max(bands)),) if bands else ()
    if measure != "accuracy":
        return ()
    levels = [
        (line.points[0].y, 100 * band_over(noise[line.label], "accuracy", asked[line.label]))
        for line in known
        if line.points and line.points[0].x == 0
    ]
    return tuple(NoiseBand(level - half, level + half) for level, half in levels)


def _onset_table(drawn: Sequence[Record]) -> Table:
    """From which size on each task loses beyond doubt, in the place of as many sentences."""
    fields = (
        QUESTIONS,
        field(
            "Accuracy falls from",
            "layers dropped at which the whole 95 % interval is a loss for the first time",
            lambda curve: count(onset(curve, what=ACCURACY)),
        ),
        field("Right answers less likely from", "the same by answer NLL", lambda curve: count(onset(curve, what=_NLL))),
    )
    return Table.from_records("Where a loss begins, in layers dropped", drawn, fields, key="onset", open=True)


def _reach(lines: Sequence[PlottedCurve]) -> list[float]:
    points = [point for line in lines for point in (*line.points, *line.marks)]
    values = [value for point in points for value in (point.y, point.low, point.high) if value is not None]
    return [min(values), max(values)]


def _plotted(curve: Record, series: int, measure: str, healed: Sequence[Record]) -> PlottedCurve:
    """A task's line. Shares are in per cent; of the NLL it is the change, whose paired band shows what a cut does.

    What greedy decoding would give is shown only of tasks that have no accuracy.
    """
    if measure == "answer_greedy" and any(point["accuracy"] is not None for point in curve["points"]):
        return PlottedCurve(series, task_name(curve), ())
    scale = 1.0 if measure == _NLL else 100.0
    points = [_point(p["size"], p[measure], scale) for p in curve["points"] if p[measure] is not None]
    if measure == _NLL and points:
        points = [*(CurvePoint(0, 0.0, 0.0, 0.0) for p in curve["points"] if p["size"] == 0), *points]
    chance = curve["chance"] if measure == "accuracy" else None
    marks = [_point(p["size"], p[measure], scale) for p in _of_task(healed, curve) if p[measure] is not None]
    return PlottedCurve(series, task_name(curve), tuple(points), 100 * chance if chance else None, tuple(marks))


def _point(size: int, value: Any, scale: float) -> CurvePoint:
    if isinstance(value, Mapping):
        return CurvePoint(size, *(scale * value[end] for end in ("estimate", "low", "high")))
    return CurvePoint(size, scale * value)


def _guessing(lines: Sequence[PlottedCurve]) -> str:
    """The level of blind guesses in words."""
    levels = sorted({f"{line.chance:.3g}" for line in lines if line.chance is not None})
    return f" Blind guesses are right in {listed(levels)} %." if levels else ""


def _course(lines: Sequence[PlottedCurve]) -> str:
    ends = [(line.label, line.points[0], line.points[-1]) for line in lines]
    told = [f"{label} from {a.y:.3g} at {a.x:g} to {z.y:.3g} at {z.x:g} layers dropped" for label, a, z in ends]
    return "; ".join(told) + "."


_SIZES = (
    field(
        "Dropped",
        "how many layers, one block at a time; nothing is healed but where it says so",
        lambda row: Cell(f"{row['size']}", "healed" if "+" in row["variant"] else "", row["size"]),
    ),
    field("Start", "first layer dropped, from 0", lambda row: Cell() if row["start"] is None else count(row["start"])),
    field(
        "Accuracy, %",
        "the choice of highest log-likelihood per character, with its 95 % interval",
        lambda row: Cell() if row["accuracy"] is None else score(row["accuracy"]),
    ),
    field(
        "Greedy, %",
        "open questions whose answer's tokens each are the model's first choice; it is no accuracy, since nothing is "
        "generated",
        lambda row: Cell() if row["answer_greedy"] is None else number(100 * row["answer_greedy"], 1),
    ),
    field(
        "NLL, bits",
        "−log₂ p(right answer | question), mean per answer, with its 95 % interval",
        lambda row: score(row["answer_nll_bits"], 1, 2),
    ),
    field(
        "Δ NLL, bits",
        "its change against the full model on the same questions, with its 95 % paired interval",
        lambda row: change(row[_NLL], 1, 2, worse_above=True),
    ),
)
SIZES = headings(*_SIZES)


def sizes_table(sweep: Record) -> Table:
    """Every size of cut as it was measured, task by task, with the healed cuts at the end of each."""
    asked = {task_name(task): task["n"] for task in sweep["tasks"]}
    records = [
        {"domain": curve["domain"], "protocol": curve["protocol"], "n": asked[task_name(curve)], **point}
        for curve in sweep["curves"]
        for point in (*curve["points"], *_of_task(sweep["healed"], curve))
    ]
    return Table.from_records("Each size of cut, as measured", records, (QUESTIONS, N, *_SIZES), shared=2, key="sizes")


def _of_task(healed: Sequence[Record], curve: Record) -> list[Record]:
    return [point for point in healed if task_name(point) == task_name(curve)]


def map_section(sweep: Record) -> Section | None:
    """What dropping each block costs, start by size, one map for each task; None where few blocks were measured."""
    costs = {task_name(task): _costs(task) for task in sweep["maps"]}
    costs = {task: blocks for task, blocks in costs.items() if len(blocks) > 1}
    if not costs:
        return None
    figures = []
    for index, (task, blocks) in enumerate(costs.items()):
        cheap, dear = min(blocks, key=blocks.__getitem__), max(blocks, key=blocks.__getitem__)
        described = (
            f"What dropping each of {len(blocks)} blocks costs in {task}, as the rise of answer NLL in bits: least for "
            f"{_block(cheap)} ({blocks[cheap]:.2f} bits), most for {_block(dear)} ({blocks[dear]:.2f} bits)."
        )
        unit = "rise of answer NLL, bits (log scale)"
        drawing = block_map(f"map-{index}", task, described, layers=sweep["layers"], costs=blocks, unit=unit)
        figures.append(Figure(task, drawing))
    return Section(
        key="map",
        title="What each block is for",
        lead=f"Each cell is {_name(sweep)} without one block of layers: where it starts along the bottom, how many "
        "layers it takes upwards. Dark blocks are the ones these questions need; a dot marks the cheapest start of "
        "each size.",
        figures=tuple(figures),
        tables=(_blocks_table(costs),),
        short="Block map",
    )


Costs = Mapping[tuple[int, int], float]  # (size, start) -> bits


def _costs(task: Record) -> Costs:
    return {
        (size, start): value
        for size, row in zip(task["sizes"], task[_NLL], strict=True)
        for start, value in zip(task["starts"], row, strict=True)
        if value is not None and size > 0
    }


def _block(block: tuple[int, int]) -> str:
    size, start = block
    return f"layer {start}" if size == 1 else f"layers {start} to {start + size - 1}"


def _blocks_table(costs: Mapping[str, Costs]) -> Table:
    """The cheapest and the dearest start of each size, task by task."""
    rows = []
    for task, blocks in costs.items():
        for size in sorted({n for n, _ in blocks}):
            starts = {start: cost for (n, start), cost in blocks.items() if n == size}
            ends = min(starts, key=starts.__getitem__), max(starts, key=starts.__getitem__)
            cells = [cell for start in ends for cell in (count(start), number(starts[start], 2))]
            rows.append((Cell(task), count(size), *cells, count(len(starts))))
    first, cost = "first layer dropped, from 0", Column("Costs bits", "rise of answer NLL over the full model")
    columns = (
        QUESTIONS[0],
        Column("Size", "layers dropped"),
        Column("Cheapest start", first),
        cost,
        Column("Dearest start", first),
        cost,
        Column("Starts", "how many were measured"),
    )
    return Table("The cheapest and the dearest block of each size", columns, tuple(rows), key="map-table")


def sweep_prose_section(sweep: Record) -> Section | None:
    """Loss on held-out prose against layers dropped, at the starts of the curves; None where none was measured."""
    shown = {point["variant"] for curve in sweep["curves"][:1] for point in curve["points"]}
    rows = [row for row in sweep["prose"] if not shown or row["variant"] in shown]
    texts: dict[str, list[CurvePoint]] = {}
    for row in rows:
        texts.setdefault(row["text"], []).append(CurvePoint(row["size"], row["bits_per_byte"]))
    lines = [PlottedCurve(series, text, tuple(points)) for series, (text, points) in enumerate(texts.items())]
    if max((len(line.points) for line in lines), default=0) < 2:
        return None
    title, up = "Prose loss as layers are dropped", "bits per byte (higher is worse)"
    across = f"layers dropped, of {sweep['layers']}"
    drawing = curves("prose-curve", title, f"{title}. {_course(lines)}", across=across, up=up, lines=lines)
    named = [{**row, "model": f"{row['size']} layers dropped" if row["size"] else "the full model"} for row in rows]
    return Section(
        key="prose",
        title="Held-out prose",
        lead="How well each cut still predicts text that none of the questions stands in.",
        legend=tuple(Key(line.label, key(line.series, dashed=True)) for line in lines) if len(lines) > 1 else (),
        figures=(Figure("", drawing),),
        tables=(prose_table(named),),
        short="Prose",
    )


def sweep_sentence(sweep: Record) -> str:
    """Which task suffers most at the largest cut, for the top of a report of its own; "" where nothing tells."""
    drawn = [curve for curve in sweep["curves"] if len(curve["points"]) > 1]
    last = [(curve, curve["points"][-1]) for curve in drawn if curve["points"][-1][_NLL]]
    if not last:
        return ""
    sure = [pair for pair in last if pair[1][_NLL]["low"] > 0]
    worst, point = max(sure or last, key=lambda pair: pair[1][PER_BYTE]["estimate"])
    size, change = counted(point["size"], "layer"), point[_NLL]
    if not sure:
        return (
            f"At {size} dropped, right answers become less likely beyond doubt in no domain; the largest change is "
            f"that of {task_name(worst)}, {bits(change)}."
        )
    return (
        f"At {size} dropped, {task_name(worst)} suffers most: right answers become less likely by "
        f"{bits(change).removeprefix('+')}."
    )
