"""The tables of a comparison, each built once for the terminal, for comparison.md and for the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.billing.rows.bill import FEW
from eval.billing.rows.unparsed import unread, unread_pair
from eval.reports.wording.interactions import in_words, thinking_in_words
from eval.reports.wording.text import NONE, bounds, larger, p_value, plain, signed, task_name
from prune.common.screen.tables import Cell, Column, Field, Table
from prune.common.thinking import MODES

Record = Mapping[str, Any]
Shown = Callable[[Any], Cell]


def count(value: int | None) -> Cell:
    """A cell with a whole number."""
    return Cell(NONE) if value is None else Cell(f"{value}", sort=value)


def number(value: float, digits: int) -> Cell:
    """A cell with so many digits after the point."""
    return Cell(plain(value, digits), sort=value)


def share(value: float) -> Cell:
    """A share of 1 in per cent."""
    return number(100 * value, 0)


def score(interval: Mapping[str, float] | None, scale: float = 100, digits: int = 1) -> Cell:
    """An estimate with its interval; a rate over no answers is none."""
    if interval is None:
        return Cell(NONE)
    rounded = bounds(interval, scale, 0 if scale == 100 else digits, sign=False)
    return Cell(plain(scale * interval["estimate"], digits), rounded, interval["estimate"])


def change(
    interval: Mapping[str, float] | None,
    scale: float,
    digits: int,
    *,
    worse_above: bool,
    doubtful: bool = False,
    noise: bool = False,
    plain_look: bool = False,
) -> Cell:
    """A change with its interval; marked where the whole interval is a loss or a gain, where it proves nothing, or
    where it is noise. `plain_look`: never as a loss or a gain.
    """
    if interval is None:
        return Cell()
    side = larger(interval) if worse_above else -larger(interval)
    mark = (" ?" if doubtful else "") + (" noise" if noise else "")
    return Cell(
        signed(scale * interval["estimate"], digits),
        bounds(interval, scale, digits) + mark,
        sort=interval["estimate"],
        look="" if doubtful or noise or plain_look else {1: "worse", 0: "", -1: "better"}[side],
        brief=bounds(interval, scale, 0) + mark if scale == 100 else "",
    )


def within(holder: Mapping[str, Any], name: str) -> bool:
    """Whether a difference of a row, or of its `versus`, is within the noise floor."""
    return name in (holder.get("noise") or ())


def many(n: int) -> Cell:
    """How many questions, marked where they are few."""
    return Cell(f"{n}", "few" if n < FEW else "", n)


def field(heading: str, hint: str, shown: Shown, *, words: bool = False) -> Field:
    """A column, what it means, and how a record gives its cell."""
    return Column(heading, hint, words), shown


def headings(*fields: Field) -> tuple[str, ...]:
    """The headings of some columns."""
    return tuple(column.heading for column, _ in fields)


def _optional(key: str, shown: Shown) -> Shown:
    """The cell of a value that some records do not have."""
    return lambda row: Cell() if row[key] is None else shown(row[key])


QUESTIONS = field("Questions", "", lambda row: Cell(task_name(row)), words=True)
N = field("n", "number of questions", lambda row: many(row["n"]))
_MODEL = field("Model", "", lambda row: Cell(row["model"]), words=True)
_CHANCE = field("Chance, %", "accuracy of blind guesses", lambda row: share(row["chance"]))
_ASKED = (QUESTIONS, N, _CHANCE, _MODEL)
_SHARED = 3  # columns of them in which all models agree
_LOST = "questions that the full model had right and this one has wrong"
_GAINED = "questions that the full model had wrong and this one has right"


def _versus(key: str, scale: float, digits: int, *, worse_above: bool) -> Shown:
    return _optional(
        "versus",
        lambda versus: change(versus[key], scale, digits, worse_above=worse_above, noise=within(versus, key)),
    )


def _kept(versus: Record) -> Cell:
    if versus["retained_above_chance"] is None:
        return Cell(NONE)
    if not versus["full_above_chance"]:
        return Cell("?")
    interval = versus["retained_interval"]
    return share(versus["retained_above_chance"]) if interval is None else score(interval, digits=0)


def _p(value: float) -> Cell:
    return Cell(p_value(value), sort=value)


_SCORES = (
    field(
        "Accuracy, %",
        "share of right answers: the choice of highest log-likelihood per character, or the exact number that was "
        "asked for",
        lambda row: score(row["accuracy"]),
    ),
    field("Plain, %", "the same, but by the highest log-likelihood as it is", lambda row: share(row["accuracy_raw"])),
    field(
        "NLL, bits",
        "−log₂ p(right answer | question), mean per answer; longer answers have more, so rows of two domains do not "
        "compare; it moves where accuracy sits at chance",
        _optional("answer_nll_bits", lambda bits: number(bits, 2)),
    ),
    field(
        "Unparsed, %",
        "answers in which no answer could be found; they count as wrong",
        lambda row: share(row["unparseable"]),
    ),
)
_CHANGES = (
    field(
        "Δ accuracy, points",
        "change against the full model on the same questions, with its 95 % paired interval, clustered where questions "
        "share a passage; noise where it is no larger than where the full model is asked twice",
        _versus("accuracy_difference", 100, 1, worse_above=False),
    ),
    field("Lost", _LOST, _optional("versus", lambda versus: count(versus["lost"]))),
    field("Gained", _GAINED, _optional("versus", lambda versus: count(versus["gained"]))),
    field(
        "p",
        "exact McNemar test, with Holm's correction over all rows of a model",
        _optional("versus", lambda versus: _p(versus["mcnemar_p_holm"])),
    ),
    field(
        "Δ NLL, bits",
        "change of the NLL, with the same interval",
        _versus("answer_nll_bits_difference", 1, 2, worse_above=True),
    ),
    field(
        "Kept, %",
        "accuracy above chance as a share of the full model's; – where that is not above chance, ? where its 95 % "
        "interval reaches down to chance, so that a share would be noise",
        _optional("versus", _kept),
    ),
)
SCORES, CHANGES = headings(*_ASKED, *_SCORES), headings(QUESTIONS, _MODEL, *_CHANGES)


def domain_table(rows: Sequence[Record]) -> Table:
    """One row for each domain, protocol and model: what it scored, and how that differs from the full model."""
    fields = (*_ASKED, *_SCORES, *_CHANGES)
    title = "Scores and changes, with 95 % intervals"
    return Table.from_records(title, rows, fields, shared=_SHARED, key="domains", open=True)


def _task(row: Record) -> Cell:
    metric = row["metric"] if row["filter"] == "none" else f"{row['metric']}, {row['filter']}"
    return Cell(f"{row['task']}{' (group)' if row['group'] else ''}, {metric}")


_TASKS = (
    field("Task and metric", "", _task, words=True),
    _MODEL,
    field("n", "number of questions", lambda row: many(row["n"]) if row["n"] else Cell(NONE)),
    field("Value", "in the metric's own unit", lambda row: number(row["value"], 4)),
    field(
        "Δ",
        "change, with its 95 % paired interval, where a score per question makes the value up",
        lambda row: change(row["difference"], 1, 4, worse_above=row["higher_is_better"] is False),
    ),
    field("p", "exact McNemar test, not corrected", _optional("mcnemar_p", _p)),
    field("Lost", _LOST, _optional("lost", count)),
    field("Gained", _GAINED, _optional("gained", count)),
)


def tasks_table(rows: Sequence[Record]) -> Table:
    """Tasks and groups of lm-eval by their own metrics."""
    return Table.from_records("Tasks of lm-eval, by their own metrics", rows, _TASKS, shared=1, key="tasks")


def _over(key: str) -> Shown:
    return lambda row: change(row[key], 1, 3, worse_above=True, noise=within(row, key))


_OVER_WINDOWS = "change against the full model, with its 95 % paired interval over windows"
_PROSE = (
    field("Text", "", lambda row: Cell(row["text"]), words=True),
    _MODEL,
    field(
        "Bits / byte", "mean loss per byte of text, whatever the tokenizer", lambda row: number(row["bits_per_byte"], 3)
    ),
    field("Δ bits / byte", _OVER_WINDOWS, _over("difference_bits_per_byte")),
    field("Nats / token", "mean loss per token", lambda row: number(row["nats_per_token"], 3)),
    field("Δ nats / token", _OVER_WINDOWS, _over("difference")),
    field("Windows", "stretches of text that were measured", lambda row: count(row["windows"])),
)
PROSE = headings(*_PROSE[:5])  # what fits a terminal


def prose_table(rows: Sequence[Record]) -> Table:
    """Held-out loss of each model on each text."""
    return Table.from_records("Loss on held-out prose", rows, _PROSE, shared=1, key="prose")


def _recalled(key: str) -> Shown:
    return lambda row: change(row[key], 100, 1, worse_above=False, noise=within(row, key))


_BY_NEEDLE = "change against the full model on the same trials, with its 95 % paired interval by needle"
_NEEDLES = (
    field(
        "Context",
        "tokens of the prompt that an invented fact is hidden in, each at the same depths",
        lambda row: Cell("all lengths" if row["length"] is None else f"{row['length']} tokens"),
        words=True,
    ),
    field("Trials", "", lambda row: count(row["trials"])),
    field("Needles", "those that no model answers without the text", lambda row: count(row["needles"])),
    _MODEL,
    field("Recall, %", "words of the needle's answer that come back (ROUGE-1)", lambda row: score(row["recall"])),
    field("Answered, %", "trials in which more than half of them do", lambda row: score(row["answered"])),
    field("Δ recall, points", _BY_NEEDLE, _recalled("recall_difference")),
    field(
        "Δ answered, points",
        "the same for the trials answered",
        _recalled("answered_difference"),
    ),
)


def needles_table(rows: Sequence[Record]) -> Table:
    """What each model brings back of invented facts in a text."""
    return Table.from_records("Needle recall", rows, _NEEDLES, shared=3, key="needles")


def _rate(key: str) -> Shown:
    return lambda row: score(row[key])


def _shift(key: str) -> Shown:
    """A change of fast or slow thinking, marked where too many answers were not parsed, or where it is noise."""

    def shown(row: Record) -> Cell:
        versus = row["versus"] or {}
        return change(versus.get(key), 100, 1, worse_above=False, doubtful=unread(row, key), noise=within(versus, key))

    return shown


def _unparsed(row: Record) -> Cell:
    shares = [row[f"unparseable_{mode}"] for mode in MODES]
    mark = " ?" if unread(row, "delta") else ""
    return Cell(" / ".join(plain(100 * value, 0) for value in shares) + mark, sort=max(shares))


_GAINS = (
    field("A_fast, %", "accuracy at once: what the model knows", _rate("a_fast")),
    field("A_slow, %", "accuracy on the same questions after a chain of thought", _rate("a_slow")),
    field(
        "δ, points", "A_slow − A_fast: what reasoning adds", lambda row: change(row["delta"], 100, 1, worse_above=False)
    ),
)
_RATES = (
    field("r_c, %", "correction rate: share of the answers wrong at once that thinking put right", _rate("r_c")),
    field("r_o, %", "overthinking rate: share of the answers right at once that thinking put wrong", _rate("r_o")),
    field("Unparsed, %", "answers that name no option or number, fast / slow; they count as wrong", _unparsed),
    field("Cut, %", "chains of thought that reached the limit of tokens", lambda row: share(row["cut_slow"])),
)
_SHIFTS = (
    field("Δ A_fast, points", "change against the full model", _shift("a_fast")),
    field("Δ A_slow, points", "the same after thinking", _shift("a_slow")),
    field(
        "Δ δ, points",
        "the same for the reasoning gain; all with 95 % intervals (Wilson, and paired for δ and Δ). ? where more than "
        "a fifth of the answers could not be parsed: a loss there is one of form too, and proves none of knowledge",
        _shift("delta"),
    ),
)
GAINS = headings(*_ASKED, *_GAINS)
RATES, SHIFTS = (headings(QUESTIONS, _MODEL, *fields) for fields in (_RATES, _SHIFTS))


def thinking_table(rows: Sequence[Record]) -> Table:
    """What fast and slow thinking score, and how a cut changed it."""
    fields = (*_ASKED, *_GAINS, *_RATES, *_SHIFTS)
    return Table.from_records("Fast and slow thinking", rows, fields, shared=_SHARED, key="thinking")


def _counted(key: str) -> Shown:
    return lambda row: count(row["counts"][key])


_COUNTS = (
    field("Both right", "questions right in both modes", _counted("both_right")),
    field("Fast only", "right at once, wrong after thinking", _counted("fast_only")),
    field("Slow only", "wrong at once, right after thinking", _counted("slow_only")),
    field("Both wrong", "questions wrong in both modes", _counted("both_wrong")),
    field("δ_c, points", "correction: share of all questions that thinking put right", _rate("delta_c")),
    field("δ_o, points", "overthinking: share of all questions that thinking put wrong", _rate("delta_o")),
)


def counts_table(rows: Sequence[Record]) -> Table:
    """The 2x2 counts that all of fast and slow thinking follows from."""
    fields = (*_ASKED, *_COUNTS)
    return Table.from_records("The counts behind it", rows, fields, shared=_SHARED, key="thinking-counts")


def difference(interval: Mapping[str, float], scale: float, digits: int, *, doubtful: bool = False) -> Cell:
    """A difference that is neither a loss nor a gain; marked where its whole interval lies on one side of 0."""
    cell = change(interval, scale, digits, worse_above=True, doubtful=doubtful)
    return replace(cell, look="clear" if cell.look else "")


_PAIR = (
    field(
        "A against B",
        "loss in domain A minus loss in domain B of the same model, with its 95 % interval; above 0, A lost more",
        lambda row: Cell(f"{row['domains'][0]} against {row['domains'][1]}, {row['protocol']}"),
        words=True,
    ),
    _MODEL,
)
_INTERACTIONS = (
    *_PAIR,
    field(
        "Accuracy, points",
        "? where the full model is at chance in one of the two, so that its accuracy has nothing to lose",
        lambda row: difference(row["accuracy"], 100, 1, doubtful=bool(row["at_chance"])),
    ),
    field(
        "NLL, bits per byte",
        "bits of answer NLL gained per byte of the right answers, whose lengths differ from domain to domain; "
        "intervals are not corrected for the number of pairs",
        _optional("answer_nll_bits_per_byte", lambda change: difference(change, 1, 3)),
    ),
    field("In words", "", lambda row: Cell(in_words(row)), words=True),
)


def interactions_table(rows: Sequence[Record]) -> Table:
    """How much more one domain lost than another."""
    title = "Does one domain lose more than another?"
    return Table.from_records(title, rows, _INTERACTIONS, shared=1, key="interaction")


def thinking_interactions_table(rows: Sequence[Record], thinking: Sequence[Record], full: str) -> Table:
    """How much more knowledge, or reasoning, one domain lost than another; `thinking` says what could not be parsed."""

    def lost(key: str) -> Shown:
        return lambda row: difference(row[key], 100, 1, doubtful=bool(unread_pair(thinking, row, full, key)))

    fields = (
        *_PAIR,
        field("A_fast, points", "knowledge", lost("a_fast")),
        field("A_slow, points", "accuracy after thinking", lost("a_slow")),
        field("δ, points", "reasoning gain", lost("delta")),
        field("In words", "", lambda row: Cell(thinking_in_words(row, thinking, full)), words=True),
    )
    title = "Knowledge and reasoning lost, one domain against another"
    return Table.from_records(title, rows, fields, shared=1, key="thinking-interactions")
