"""The sections of the report that stand on comparison.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.billing.rows.counts import ThinkingCounts
from eval.billing.rows.unparsed import unparsed_mark, unread
from eval.reports.drawing.charts import Dot, DotGroup, forest
from eval.reports.drawing.maps import TILES, mosaic, tile_key
from eval.reports.model import Figure, Key, Section
from eval.reports.sections.noise import floors
from eval.reports.wording.interactions import SENTENCES, findings, interaction_findings, thinking_in_words
from eval.reports.wording.tables import (
    counts_table,
    domain_table,
    interactions_table,
    needles_table,
    prose_table,
    tasks_table,
    thinking_interactions_table,
    thinking_table,
)
from eval.reports.wording.text import bits, points, task_name
from prune.common.screen.numbers import plain, signed
from prune.common.screen.svg import key, noise_key

Record = Mapping[str, Any]


def domains_section(comparison: Record) -> Section | None:
    """Changes of accuracy and answer NLL as charts, and the table of everything."""
    rows = comparison["rows"]
    full, *others = [model["label"] for model in comparison["models"]]
    if not any(row["versus"] for row in rows):
        return None
    charts = (
        ("accuracy_difference", 100.0, "Change of accuracy", "percentage points (left is worse)", points),
        ("answer_nll_bits_difference", 1.0, "Change of answer NLL", "bits per answer (right is worse)", bits),
    )
    floors_by_task, figures = floors(comparison, "rows"), []
    legend = [Key(label, key(i)) for i, label in enumerate(others)]
    legend += [Key("noise", noise_key())] if floors_by_task else []
    for what, scale, title, axis, say in charts:
        told = [
            f"{task_name(r)}, {r['model']}: {say(r['versus'][what])}" for r in rows if (r["versus"] or {}).get(what)
        ]
        if not told:  # answers that nobody scored
            continue
        groups = [
            replace(group, noise=_noise(floors_by_task, row, what, scale))
            for row in rows
            if row["versus"] is None and (group := _group(rows, row, others, what, scale)).dots
        ]
        described = f"{title} against {full}, {axis}. " + "; ".join(told) + "." + _bands(groups)
        figures.append(Figure(title, forest(what.replace("_", "-"), title, described, axis, groups)))
    return Section(
        key="domains",
        title="Domain by domain",
        lead=f"Every model answered the same questions as {full}. Marks are estimates, bars their 95 % paired "
        f"intervals.{' What lies within a grey band is noise.' if floors_by_task else ''}",
        legend=tuple(legend),
        figures=tuple(figures),
        tables=(domain_table(rows),),
        short="Domains",
    )


def _noise(floors_by_task: Mapping[str, Record], row: Record, what: str, scale: float) -> float | None:
    floor = floors_by_task.get(task_name(row))
    return None if floor is None else scale * float(floor[what.removesuffix("_difference")]["band"])


def _bands(groups: Sequence[DotGroup]) -> str:
    """The grey bands in words."""
    told = [f"{group.title} {plain(group.noise, 3)}" for group in groups if group.noise is not None]
    return f" A change is noise up to: {'; '.join(told)}." if told else ""


def _group(rows: Sequence[Record], first: Record, others: list[str], what: str, scale: float) -> DotGroup:
    compared = [row for row in rows if task_name(row) == task_name(first) and (row["versus"] or {}).get(what)]
    dots = [
        Dot(
            others.index(row["model"]),
            row["model"],
            *(scale * row["versus"][what][end] for end in ("estimate", "low", "high")),
        )
        for row in compared
    ]
    if what == "accuracy_difference":
        before = f"{100 * first['accuracy']['estimate']:.0f} %, chance {100 * first['chance']:.0f} %"
    else:
        before = "" if first["answer_nll_bits"] is None else f"{plain(first['answer_nll_bits'], 1)} bits"
    return DotGroup(task_name(first), f"n = {first['n']}, before {before}", tuple(dots))


def interactions_section(comparison: Record) -> Section | None:
    """Differences between the losses of two domains, with their intervals; None where there are none."""
    rows = comparison["interactions"]
    if not rows:
        return None
    return Section(
        key="interactions",
        title="One domain against another",
        lead="Whether a model lost more in one domain than in another, asked the same way: the loss in A minus the "
        "loss in B, with its 95 % interval. Where the full model is not above chance, accuracy has nothing to lose and "
        "says nothing; the answer NLL does.",
        findings=interaction_findings(rows),
        tables=(interactions_table(rows),),
        short="Differences",
    )


def prose_section(comparison: Record) -> Section | None:
    """Loss on held-out prose; None where none was measured."""
    rows = comparison["prose"]
    if not rows:
        return None
    lead = "How well each model still predicts text that none of the questions stands in."
    return Section("prose", "Held-out prose", lead, tables=(prose_table(rows),), short="Prose")


def needles_section(comparison: Record) -> Section | None:
    """What each model brings back of its context; None where no needles were asked for."""
    rows = comparison["needles"]
    if not rows:
        return None
    lead = "Whether a model brings back what stands in its context: facts that were invented, and hidden in a text."
    return Section("needles", "Needle recall", lead, tables=(needles_table(rows),), short="Needles")


def tasks_section(comparison: Record) -> Section | None:
    """The tasks that were named with --tasks; None where there were none."""
    rows = comparison["tasks"]
    if not rows:
        return None
    lead = "Benchmarks that lm-eval carries, as it asks and scores them."
    return Section("tasks", "Tasks of lm-eval", lead, tables=(tasks_table(rows),), short="lm-eval tasks")


def thinking_section(comparison: Record) -> Section | None:
    """One mosaic of the 2x2 counts for each domain, protocol and model, and all that follows from the counts."""
    rows, pairs = comparison["thinking"], comparison["thinking_interactions"]
    if not rows:
        return None
    full = comparison["models"][0]["label"]
    tables, bands = [thinking_table(rows), counts_table(rows)], floors(comparison, "thinking")
    tables += [thinking_interactions_table(pairs, rows, full)] if pairs else []
    return Section(
        key="thinking",
        title="Fast and slow thinking",
        lead="The same questions, answered at once (fast) and after a chain of thought (slow). Each square holds all "
        "questions of one domain: its left column those right at once (its width is A_fast, knowledge), its right "
        "column those wrong at once. How high the right column is filled is the correction rate r_c; how much of the "
        "left column is lost is the overthinking rate r_o. The reasoning gain δ is A_slow − A_fast, in points.",
        findings=tuple(findings(pairs, [thinking_in_words(row, rows, full) for row in pairs])[:SENTENCES]),
        legend=tuple(Key(name, tile_key(look)) for name, look in TILES),
        figures=tuple(_square(number, row, bands.get(task_name(row))) for number, row in enumerate(rows)),
        tables=tuple(tables),
        small=True,
        short="Fast and slow",
    )


def _square(number: int, row: Record, floor: Record | None) -> Figure:
    counts = ThinkingCounts(**row["counts"])
    title = f"{task_name(row)}: {row['model']}"
    described = (
        f"{title}, {counts.n} questions: right in both modes {counts.both_right}, only at once {counts.fast_only}, "
        f"only after thinking {counts.slow_only}, wrong in both {counts.both_wrong}."
    )
    facts = (
        f"A_fast {_percent(row['a_fast'])}",
        f"δ {signed(100 * row['delta']['estimate'], 1)}",
        f"r_c {_percent(row['r_c'])}",
        f"r_o {_percent(row['r_o'])}",
        *([f"noise of δ ±{plain(100 * floor['delta']['band'], 1)}"] if floor else []),
        *([unparsed_mark(row)] if unread(row, "delta") else []),
    )
    return Figure(task_name(row), mosaic(f"mosaic-{number}", title, described, counts), facts, row["model"])


def _percent(interval: Mapping[str, float] | None) -> str:
    return "–" if interval is None else f"{plain(100 * interval['estimate'], 0)} %"
