"""The report's tables: documents of results as columns and cells, each with what it is sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from eval.billing.unparsed import unparsed_mark, unread
from eval.reports.text import FEW, NONE, bounds, p_value, plain, signed, task_name

# Symbols of fast and slow thinking, as arXiv 2507.18178 writes them.
A_FAST, A_SLOW = Markup("A<sub>fast</sub>"), Markup("A<sub>slow</sub>")
R_C, R_O = Markup("r<sub>c</sub>"), Markup("r<sub>o</sub>")
DELTA_C, DELTA_O = Markup("δ<sub>c</sub>"), Markup("δ<sub>o</sub>")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Column:
    """A heading; `words` columns are set to the left, numbers to the right. `hint` is said in full on hover."""

    name: str
    hint: str = ""
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell shows, in small letters below it its interval, and the value it is sorted by (its text if None)."""

    text: str
    below: str = ""
    sort: float | None = None
    look: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; `key` is its name on the page. The first column heads the rows.

    A long table is folded away unless it is to be `shown`.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    shown: bool = False


def words(text: str) -> Cell:
    """A cell of text."""
    return Cell(text)


def count(value: int) -> Cell:
    """A cell with a whole number."""
    return Cell(f"{value}", sort=value)


def share(value: float, digits: int = 0) -> Cell:
    """A share of 1 in per cent."""
    return Cell(plain(100 * value, digits), sort=value)


def score(found: Mapping[str, float], scale: float, digits: int) -> Cell:
    """An estimate with its interval below."""
    low_and_high = bounds(found, scale, digits, sign=False)
    return Cell(plain(scale * found["estimate"], digits), low_and_high, found["estimate"])


def change(found: Mapping[str, float] | None, scale: float, digits: int, *, worse_above: bool) -> Cell:
    """A change with its interval below; marked where the whole interval is a loss or a gain."""
    if found is None:
        return Cell(NONE)
    above, below = found["low"] > 0, found["high"] < 0
    worse, better = (above, below) if worse_above else (below, above)
    look = "worse" if worse else "better" if better else ""
    text = signed(scale * found["estimate"], digits)
    return Cell(text, bounds(found, scale, digits), found["estimate"], look)


def many(n: int) -> Cell:
    """How many questions, marked where they are few."""
    return Cell(f"{n}", "few" if n < FEW else "", n)


def _p(versus: Mapping[str, Any]) -> Cell:
    p = versus.get("mcnemar_p_holm")
    p = versus["mcnemar_p"] if p is None else p
    return Cell(p_value(p), sort=p)


def _kept(versus: Mapping[str, Any]) -> Cell:
    kept = versus["retained_above_chance"]
    if kept is None:
        return Cell(NONE)
    if not versus["full_above_chance"]:
        return Cell("?")
    interval = versus.get("retained_interval")
    return Cell(plain(100 * kept, 0), bounds(interval, 100, 0, sign=False) if interval else "", kept)


def domain_table(rows: Rows, full: str) -> Table:
    """One row for each domain, protocol and other model, beside what the full model scored."""
    before = {task_name(row): row for row in rows if row["versus"] is None}
    own = [row for row in rows if row["versus"] is not None]
    holm = any(row["versus"].get("mcnemar_p_holm") is not None for row in own)
    several = len({row["model"] for row in own}) > 1
    columns = (
        Column("Questions", "domain and protocol", words=True),
        *([Column("Model", words=True)] if several else []),
        Column("n", "questions asked"),
        Column("Chance %", "accuracy of blind guesses"),
        Column(f"{full} %", "accuracy of the full model, with its 95 % interval"),
        Column("Accuracy %", "accuracy of this model, with its 95 % interval"),
        Column("Plain %", "accuracy of this model by plain log-likelihood, not per character"),
        Column("Change points", "change of accuracy in percentage points, 95 % paired interval"),
        Column("p (Holm)" if holm else "p", "exact McNemar" + (", Holm's correction over the domains" if holm else "")),
        Column("Lost", "right in the full model, wrong in this one"),
        Column("Gained", "wrong in the full model, right in this one"),
        Column("Kept %", "accuracy above chance as a share of the full model's, with its 95 % interval"),
        Column(f"{full} NLL", "answer NLL of the full model, bits"),
        Column("NLL bits", "answer NLL of this model, bits per answer"),
        Column("Change bits", "change of answer NLL in bits, 95 % paired interval"),
        Column("Unparsed %", "answers in which none could be found"),
    )
    body = []
    for row in own:
        base, versus = before[task_name(row)], row["versus"]
        body.append(
            (
                words(task_name(row)),
                *([words(row["model"])] if several else []),
                many(row["n"]),
                share(row["chance"]),
                score(base["accuracy"], 100, 0),
                score(row["accuracy"], 100, 0),
                share(row["accuracy_raw"]),
                change(versus["accuracy_difference"], 100, 1, worse_above=False),
                _p(versus),
                count(versus["lost"]),
                count(versus["gained"]),
                _kept(versus),
                Cell(plain(base["answer_nll_bits"], 2), sort=base["answer_nll_bits"]),
                Cell(plain(row["answer_nll_bits"], 2), sort=row["answer_nll_bits"]),
                change(versus["answer_nll_bits_difference"], 1, 2, worse_above=True),
                share(row["unparseable"]),
            )
        )
    return Table("domains", f"Scores and changes against {full}, with 95 % intervals", columns, tuple(body), shown=True)


def tasks_table(rows: Rows, full: str) -> Table:
    """Tasks and groups of lm-eval by their own metrics."""
    columns = (
        Column("Task", words=True),
        Column("Metric", words=True),
        Column("Model", words=True),
        Column("n", "questions asked"),
        Column("Value", "in the metric's own unit"),
        Column("Change", f"against {full}, 95 % paired interval where a score per question makes the value up"),
        Column("p", "exact McNemar, not corrected"),
        Column("Lost", "right in the full model, wrong in this one"),
        Column("Gained", "wrong in the full model, right in this one"),
    )
    body = []
    for row in rows:
        p, lost, gained = row["mcnemar_p"], row["lost"], row["gained"]
        moved = change(row["difference"], 1, 4, worse_above=row["higher_is_better"] is False)
        body.append(
            (
                words(row["task"] + (" (group)" if row["group"] else "")),
                words(row["metric"] if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"),
                words(row["model"]),
                many(row["n"]) if row["n"] else Cell(NONE),
                Cell(plain(row["value"], 4), sort=row["value"]),
                moved,
                Cell(NONE) if p is None else Cell(p_value(p), sort=p),
                Cell(NONE) if lost is None else count(lost),
                Cell(NONE) if gained is None else count(gained),
            )
        )
    return Table("tasks", "Tasks of lm-eval, by their own metrics", columns, tuple(body))


def prose_table(rows: Rows, full: str) -> Table:
    """Held-out loss of each model, and of each text where there are several."""
    several = len({row.get("text") for row in rows}) > 1
    per_byte = any(row.get("difference_bits_per_byte") for row in rows)
    columns = (
        Column("Model", words=True),
        *([Column("Text", words=True)] if several else []),
        Column("Bits / byte", "mean loss per byte of text, whatever the tokenizer"),
        *([Column("Change bits / byte", f"against {full}, 95 % paired interval over windows")] if per_byte else []),
        Column("Nats / token", "mean loss per token"),
        Column("Change nats / token", f"against {full}, 95 % paired interval over windows"),
        Column("Windows", "stretches of text that were measured"),
    )
    body = tuple(
        (
            words(row["model"]),
            *([words(str(row.get("text")))] if several else []),
            Cell(plain(row["bits_per_byte"], 3), sort=row["bits_per_byte"]),
            *([change(row.get("difference_bits_per_byte"), 1, 3, worse_above=True)] if per_byte else []),
            Cell(plain(row["nats_per_token"], 3), sort=row["nats_per_token"]),
            change(row["difference"], 1, 3, worse_above=True),
            count(row["windows"]) if "windows" in row else Cell(NONE),
        )
        for row in rows
    )
    return Table("prose", "Loss on held-out prose", columns, body)


def thinking_tables(rows: Rows, full: str) -> tuple[Table, Table]:
    """What fast and slow thinking score and how a cut changed it, and the 2x2 counts that all of it follows from."""
    head = (
        Column("Questions", "domain and protocol", words=True),
        Column("Model", "below it the answers that were not parsed, fast / slow, where they are many", words=True),
        Column("n", "questions asked"),
    )
    rates = (
        *head,
        Column(A_FAST + " %", "accuracy at once: what the model knows"),
        Column("Change of " + A_FAST, f"against {full}, in points, 95 % paired interval"),
        Column(A_SLOW + " %", "accuracy after a chain of thought"),
        Column("δ points", "reasoning gain: accuracy after thinking − at once"),
        Column("Change of δ", f"against {full}, in points, 95 % paired interval"),
        Column(R_C + " %", "correction rate: of the answers wrong at once, those that thinking put right"),
        Column(R_O + " %", "overthinking rate: of the answers right at once, those that thinking put wrong"),
    )
    counts = (
        *head,
        Column("Both right", "questions right in both modes"),
        Column("Fast only", "right at once, wrong after thinking"),
        Column("Slow only", "wrong at once, right after thinking"),
        Column("Both wrong", "questions wrong in both modes"),
        Column(DELTA_C + " points", "correction: share of all questions that thinking put right"),
        Column(
            DELTA_O + " points", "overthinking: share of all questions that thinking put wrong; δ is the difference"
        ),
        Column("Unparsed fast %", "fast answers in which none could be found; they count as wrong"),
        Column("Unparsed slow %", "slow answers in which none could be found; they count as wrong"),
        Column("Cut slow %", "chains of thought that reached the limit of tokens"),
    )
    first, second = [], []
    for row in rows:
        found, versus = row["counts"], row.get("versus") or {}
        start = (words(task_name(row)), words(row["model"]), many(row["n"]))
        marked = Cell(row["model"], unparsed_mark(row) if unread(row, "delta") else "")
        moved = {key: change(versus.get(key), 100, 1, worse_above=False) for key in ("a_fast", "delta")}
        moved = {key: replace(cell, look="") if unread(row, key) else cell for key, cell in moved.items()}
        first.append(
            (
                start[0],
                marked,
                start[2],
                _number(row["a_fast"], sign=False),
                moved["a_fast"],
                _number(row["a_slow"], sign=False),
                _number(row["delta"], sign=True),
                moved["delta"],
                _number(row["r_c"], sign=False),
                _number(row["r_o"], sign=False),
            )
        )
        second.append(
            (
                *start,
                *(count(found[key]) for key in ("both_right", "fast_only", "slow_only", "both_wrong")),
                _number(row["delta_c"], sign=False),
                _number(row["delta_o"], sign=False),
                share(row["unparseable_fast"]),
                share(row["unparseable_slow"]),
                share(row.get("cut_slow") or 0.0),
            )
        )
    return (
        Table("thinking", "Fast and slow thinking on the same questions, 95 % intervals", rates, tuple(first)),
        Table("thinking-counts", "The counts behind it", counts, tuple(second)),
    )


def _number(found: Any, *, sign: bool) -> Cell:
    """An interval or a bare number in per cent; a rate over no answers is none."""
    if found is None:
        return Cell(NONE)
    show = signed if sign else plain
    if not isinstance(found, Mapping):
        return Cell(show(100 * found, 1), sort=found)
    return Cell(show(100 * found["estimate"], 1), bounds(found, 100, 0, sign=sign), found["estimate"])
