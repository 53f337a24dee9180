"""The parts of the report that stand on comparison.json and on the samples beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from eval.billing.unparsed import unparsed_mark, unread
from eval.reports.charts import Dot, Group, forest
from eval.reports.flips import Flip, FlipGroup
from eval.reports.interactions import thinking_interactions
from eval.reports.maps import TILES, Counts, mosaic, tile_key
from eval.reports.model import Example, Figure, Flips, Key, Part
from eval.reports.tables import A_FAST, A_SLOW, R_C, R_O, domain_table, prose_table, tasks_table, thinking_tables
from eval.reports.text import bits, clipped, plain, points, signed, task_name
from prune.common.svg import key

SHOWN = 4  # examples of each kind, for each task and model; fewer where they are many, so that the page stays light
_IN_ALL = 100
LONGEST = 700  # characters of an answer or question that are shown


def domains_part(comparison: Mapping[str, Any]) -> Part | None:
    """Changes of accuracy and answer NLL as charts, and the table of everything."""
    rows = comparison.get("rows") or []
    full, *others = [model["label"] for model in comparison["models"]]
    if not any(row["versus"] for row in rows):
        return None
    charts = (
        ("accuracy_difference", 100.0, "Change of accuracy", "percentage points (left is worse)", points),
        ("answer_nll_bits_difference", 1.0, "Change of answer NLL", "bits per answer (right is worse)", bits),
    )
    figures = []
    for what, scale, title, axis, say in charts:
        groups = [_group(rows, row, others, what, scale) for row in rows if row["versus"] is None]
        told = [f"{task_name(r)}, {r['model']}: {say(r['versus'][what])}" for r in rows if r["versus"]]
        described = f"{title} against {full}, {axis}. " + "; ".join(told) + "."
        drawn = forest(what.replace("_", "-"), title, described, axis, groups)
        figures.append(Figure(title, drawn, ""))
    legend = tuple(Key(label, key(i)) for i, label in enumerate(others))
    lead = f"Every model answered the same questions as {full}. Marks are estimates, bars their 95 % paired intervals."
    table = domain_table(rows, full)
    return Part("domains", "Domain by domain", lead, (), legend, tuple(figures), (table,), short="Domains")


def _group(
    rows: Sequence[Mapping[str, Any]], first: Mapping[str, Any], others: list[str], what: str, scale: float
) -> Group:
    own = [row for row in rows if task_name(row) == task_name(first) and row["versus"]]
    dots = [
        Dot(others.index(row["model"]), row["model"], *(scale * row["versus"][what][k] for k in _INTERVAL))
        for row in own
    ]
    if what == "accuracy_difference":
        before = f"{100 * first['accuracy']['estimate']:.0f} %, chance {100 * first['chance']:.0f} %"
    else:
        before = f"{plain(first['answer_nll_bits'], 1)} bits"
    return Group(task_name(first), f"n = {first['n']}, before {before}", tuple(dots))


_INTERVAL = ("estimate", "low", "high")


def prose_part(found: Mapping[str, Any], full: str) -> Part | None:
    """Loss on held-out prose; None where none was measured."""
    rows = found.get("prose") or []
    if not rows:
        return None
    lead = "How well each model still predicts text that none of the questions stands in."
    return Part("prose", "Held-out prose", lead, tables=(prose_table(rows, full),), short="Prose")


def tasks_part(comparison: Mapping[str, Any]) -> Part | None:
    """The tasks that were named with --tasks; None where there were none."""
    rows = comparison.get("tasks") or []
    if not rows:
        return None
    lead = "Benchmarks that lm-eval carries, as it asks and scores them."
    table = tasks_table(rows, comparison["models"][0]["label"])
    return Part("tasks", "Tasks of lm-eval", lead, tables=(table,), short="lm-eval tasks")


def thinking_part(comparison: Mapping[str, Any]) -> Part | None:
    """One mosaic of the 2x2 counts for each domain, protocol and model, and all that follows from the counts."""
    rows = comparison.get("thinking") or []
    if not rows:
        return None
    figures = []
    for place, row in enumerate(rows):
        counts = Counts(**{k: row["counts"][k] for k in ("both_right", "fast_only", "slow_only", "both_wrong")})
        title = f"{task_name(row)}: {row['model']}"
        described = (
            f"{title}, {counts.n} questions: right in both modes {counts.both_right}, only at once {counts.fast_only}, "
            f"only after thinking {counts.slow_only}, wrong in both {counts.both_wrong}."
        )
        facts: tuple[str, ...] = (
            Markup("{} {}").format(A_FAST, _percent(row["a_fast"])),
            f"δ {signed(100 * _estimate(row['delta']), 1)}",
            Markup("{} {}").format(R_C, _percent(row["r_c"])),
            Markup("{} {}").format(R_O, _percent(row["r_o"])),
        )
        if unread(row, "delta"):
            facts = (*facts, unparsed_mark(row))
        drawn = mosaic(f"mosaic-{place}", title, described, counts)
        figures.append(Figure(task_name(row), drawn, "", facts, row["model"]))
    lead = Markup(
        "The same questions, answered at once (fast) and after a chain of thought (slow). Each square holds all "
        "questions of one domain: its left column those right at once (its width is {0}, knowledge), its right "
        "column those wrong at once. How high the right column is filled is the correction rate {2}; how much of the "
        "left column is lost is the overthinking rate {3}. The reasoning gain δ is {1} − {0}, in points."
    ).format(A_FAST, A_SLOW, R_C, R_O)
    legend = tuple(Key(name, tile_key(look)) for name, look in TILES)
    said, more = thinking_interactions(comparison)
    tables = (*thinking_tables(rows, comparison["models"][0]["label"]), *more)
    title = "Fast and slow thinking"
    return Part("thinking", title, lead, said, legend, tuple(figures), tables, small=True, short="Fast and slow")


def _estimate(found: Any) -> float:
    return float(found["estimate"] if isinstance(found, Mapping) else found)


def _percent(found: Any) -> str:
    return "–" if found is None else f"{plain(100 * _estimate(found), 0)} %"


def flips_parts(groups: Sequence[FlipGroup]) -> tuple[Flips, ...]:
    """Examples of what was lost and gained, the first of each group in its drawn order."""
    found = []
    kept = [group for group in groups if group.lost or group.gained]
    shown = max(1, min(SHOWN, _IN_ALL // max(1, len(kept))))
    for group in kept:
        mode = f", {group.thinking} thinking" if group.thinking else ""
        lost, gained = (tuple(_example(flip) for flip in kind[:shown]) for kind in (group.lost, group.gained))
        title = f"{group.domain}, {group.protocol}{mode}: {group.model}"
        found.append(Flips(title, group.n, len(group.lost), len(group.gained), lost, gained))
    return tuple(found)


def _example(flip: Flip) -> Example:
    """A choice that was taken is marked where it stands; an answer that was written is shown below."""
    answers = {"right": flip.answer, "before": flip.before, "after": flip.after}
    choices = tuple(
        (clipped(text, LONGEST), tuple(word for word, answer in answers.items() if answer == place))
        for place, text in enumerate(flip.choices or ())
    )
    written = {
        word: "" if flip.choices and isinstance(answer, int) else _said(answer) for word, answer in answers.items()
    }
    where = ", ".join(part for part in (flip.subject, flip.source) if part)
    return Example(
        clipped(flip.question, LONGEST), where, choices, written["right"], written["before"], written["after"]
    )


def _said(answer: Any) -> str:
    text = str(answer).strip()
    return clipped(text, LONGEST) if text else "(nothing)"
