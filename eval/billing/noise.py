"""The noise floor: what the full model's scores move by where it is asked twice. Pure arithmetic.

The same model, asked in another batch size or precision, gives other last digits, and so other answers to close
questions (arXiv 2602.10144). A change that is no larger says nothing of a cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.asking.tasks import TaskPlan
from eval.billing.rows.bill import DomainRow, ProseRow, bill, bill_prose
from eval.billing.rows.needles import NeedleRow, bill_needles
from eval.billing.rows.thinking import ThinkingRow, bill_thinking
from eval.billing.statistics import Interval, accuracy_of
from eval.runs.samples import RunResult, Sample
from prune.common.thinking import MODES

_TINY = 1e-12  # sums of the same numbers in two orders


@dataclass(frozen=True)
class Floor:
    """How far one mean moves where nothing changed; `docs/formats.md` tells the fields.

    `shift`: second asking - first, paired, on what was asked twice. `band`: a change of the row of at most so much, up
    or down, is noise.
    """

    shift: Interval
    band: float


@dataclass(frozen=True)
class NoiseRow:
    """The floor of one domain and protocol: `n` of its `of` questions were asked twice, `flips` is a share of them."""

    domain: str
    protocol: str
    n: int
    of: int
    lost: int
    gained: int
    flips: Interval
    accuracy: Floor
    answer_nll_bits: Floor
    answer_nll_bits_per_byte: Floor


@dataclass(frozen=True)
class NoiseThinking:
    """The same of fast and slow thinking; flips by mode."""

    domain: str
    protocol: str
    n: int
    of: int
    flips_fast: Interval
    flips_slow: Interval
    a_fast: Floor
    a_slow: Floor
    delta: Floor


@dataclass(frozen=True)
class NoiseProse:
    """The same of a text: `n` of its `of` windows."""

    text: str
    n: int
    of: int
    bits_per_byte: Floor
    nats_per_token: Floor


@dataclass(frozen=True)
class NoiseNeedles:
    """The same of needle recall at one length, or at all together: `n` of its `of` trials."""

    length: int | None
    n: int
    of: int
    recall: Floor
    answered: Floor


@dataclass(frozen=True)
class Asking:
    """How the full model was asked, the first or the second time."""

    batch_size: int
    dtype: str


@dataclass(frozen=True)
class Noise:
    """What the full model's scores moved by, and how it was asked both times."""

    first: Asking
    second: Asking
    rows: tuple[NoiseRow, ...]
    thinking: tuple[NoiseThinking, ...]
    prose: tuple[NoiseProse, ...]
    needles: tuple[NoiseNeedles, ...]
    seconds: float


def band(shift: Interval, n: int, of: int) -> float:
    """|shift| + arm sqrt(n / of): what `of` questions may move by, where `n` of them moved by `shift` on average.

    The arm, half of the interval of n, is what is left to chance; over more questions it is narrower. It is a limit of
    detection: a lossless change lies within it in 95 of 100 cases, or more.

    Args:
        shift: mean change of the n asked twice.
        of: questions of the row that is judged.
    """
    return abs(shift.estimate) + max(shift.high - shift.estimate, shift.estimate - shift.low) * math.sqrt(n / of)


def is_noise(change: Interval, floor: Floor) -> bool:
    """Whether a change is no larger than what asking twice gives.

    Its whole interval lies within the band; or its estimate does, and its interval reaches down to the shift that was
    seen, so that it may be no larger. A change that many questions show for certain is no noise by being small alone.
    """
    seen, nearest = abs(floor.shift.estimate), max(change.low, -change.high, 0.0)
    inside = max(abs(change.low), abs(change.high)) <= floor.band + _TINY
    return inside or (abs(change.estimate) <= floor.band + _TINY and nearest <= seen + _TINY)


def measure_noise(full: RunResult, again: RunResult) -> Noise:
    """The floor of every row, from the full model's answers and those to a part of the same, asked again."""
    same = _part_of(full, again)
    sizes = {(task.domain, task.protocol): len(task.questions) for task in full.tasks}
    plain = [task for task in again.tasks if task.thinking is None]
    thought = [row for row in bill_thinking([same, again]) if row.versus]
    found = [row for row in bill_needles([same, again]) if row.recall_difference] if again.needles else []
    counts = {row.length: row.trials for row in bill_needles([full])} if found else {}
    prose = [bill_prose(again.label, name, again.prose[name], same.prose[name]) for name in again.prose]
    return Noise(
        first=_asking(full),
        second=_asking(again),
        rows=tuple(_row(task, same, again, sizes[task.domain, task.protocol]) for task in plain),
        thinking=tuple(_thinking(row, same, again, sizes[row.domain, row.protocol]) for row in thought),
        prose=tuple(_prose(row, len(full.prose[row.text].windows)) for row in prose if row.difference),
        needles=tuple(_needles(row, counts[row.length]) for row in found),
        seconds=round(again.seconds, 1),
    )


def _part_of(full: RunResult, again: RunResult) -> RunResult:
    """The full model's answers to what was asked again."""
    asked = {(task.domain, task.protocol, task.thinking): {q.id for q in task.questions} for task in again.tasks}
    samples = [s for s in full.samples if s.id in asked.get((s.domain, s.protocol, s.thinking), ())]
    prose = {
        name: replace(full.prose[name], windows=full.prose[name].windows[: len(part.windows)], sha256=part.sha256)
        for name, part in again.prose.items()
    }
    needles = None
    if full.needles is not None and again.needles is not None:
        places = {(trial.needle, trial.length, trial.depth) for trial in again.needles.trials}
        trials = tuple(t for t in full.needles.trials if (t.needle, t.length, t.depth) in places)
        needles = full.needles.model_copy(update={"trials": trials, "sha256": again.needles.sha256})
    return replace(full, tasks=again.tasks, samples=tuple(samples), prose=prose, needles=needles)


def _asking(result: RunResult) -> Asking:
    return Asking(batch_size=result.settings["batch_size"], dtype=result.settings["dtype"])


def _row(task: TaskPlan, full: RunResult, again: RunResult, of: int) -> NoiseRow:
    before, after = full.of(task), again.of(task)
    versus = bill(task, again.label, after, before).versus
    assert versus is not None
    return NoiseRow(
        domain=task.domain,
        protocol=task.protocol,
        n=len(after),
        of=of,
        lost=versus.lost,
        gained=versus.gained,
        flips=_flips(before, after),
        accuracy=_floor(versus.accuracy_difference, len(after), of),
        answer_nll_bits=_floor(versus.answer_nll_bits_difference, len(after), of),
        answer_nll_bits_per_byte=_floor(versus.answer_nll_bits_per_byte_difference, len(after), of),
    )


def _floor(shift: Interval | None, n: int, of: int) -> Floor:
    assert shift is not None
    return Floor(shift, band(shift, n, of))


def _flips(before: Sequence[Sample], after: Sequence[Sample]) -> Interval:
    """Share of verdicts that changed, either way."""
    changed = [one.correct != other.correct for one, other in zip(before, after, strict=True)]
    return accuracy_of(changed, [sample.unit for sample in before])


def _thinking(row: ThinkingRow, full: RunResult, again: RunResult, of: int) -> NoiseThinking:
    assert row.versus is not None
    plans = {(task.domain, task.protocol, task.thinking): task for task in again.tasks}
    fast, slow = (plans[row.domain, row.protocol, mode] for mode in MODES)
    return NoiseThinking(
        domain=row.domain,
        protocol=row.protocol,
        n=row.n,
        of=of,
        flips_fast=_flips(full.of(fast), again.of(fast)),
        flips_slow=_flips(full.of(slow), again.of(slow)),
        a_fast=_floor(row.versus.a_fast, row.n, of),
        a_slow=_floor(row.versus.a_slow, row.n, of),
        delta=_floor(row.versus.delta, row.n, of),
    )


def _prose(row: ProseRow, of: int) -> NoiseProse:
    per_byte, per_token = (_floor(shift, row.windows, of) for shift in (row.difference_bits_per_byte, row.difference))
    return NoiseProse(row.text, row.windows, of, per_byte, per_token)


def _needles(row: NeedleRow, of: int) -> NoiseNeedles:
    recall, answered = (_floor(shift, row.trials, of) for shift in (row.recall_difference, row.answered_difference))
    return NoiseNeedles(row.length, row.trials, of, recall, answered)


def mark_rows(rows: Sequence[DomainRow], noise: Noise | None) -> list[DomainRow]:
    """The rows, each with the names of its differences that are noise."""
    names = ("accuracy", "answer_nll_bits", "answer_nll_bits_per_byte")
    return _mark_versus(rows, noise.rows if noise else (), {f"{name}_difference": name for name in names})


def mark_thinking(rows: Sequence[ThinkingRow], noise: Noise | None) -> list[ThinkingRow]:
    """The same for fast and slow thinking."""
    names = ("a_fast", "a_slow", "delta")
    return _mark_versus(rows, noise.thinking if noise else (), {name: name for name in names})


def _mark_versus(rows: Sequence[Any], floors: Sequence[Any], names: Mapping[str, str]) -> list[Any]:
    """Rows of a domain and a protocol with their marks; `names`: a difference in `versus` -> its floor."""
    known = {(floor.domain, floor.protocol): floor for floor in floors}
    marked = []
    for row in rows:
        floor = known.get((row.domain, row.protocol))
        if row.versus is not None and floor is not None:
            marks = _marks(row.versus, ((name, getattr(floor, of)) for name, of in names.items()))
            row = replace(row, versus=replace(row.versus, noise=marks))
        marked.append(row)
    return marked


def mark_prose(rows: Sequence[ProseRow], noise: Noise | None) -> list[ProseRow]:
    """The same for prose."""
    floors = {one.text: one for one in noise.prose} if noise else {}
    return [
        replace(
            row, noise=_marks(row, (("difference", f.nats_per_token), ("difference_bits_per_byte", f.bits_per_byte)))
        )
        if row.difference is not None and (f := floors.get(row.text)) is not None
        else row
        for row in rows
    ]


def mark_needles(rows: Sequence[NeedleRow], noise: Noise | None) -> list[NeedleRow]:
    """The same for needle recall."""
    floors = {one.length: one for one in noise.needles} if noise else {}
    return [
        replace(row, noise=_marks(row, (("recall_difference", f.recall), ("answered_difference", f.answered))))
        if row.recall_difference is not None and (f := floors.get(row.length)) is not None
        else row
        for row in rows
    ]


def _marks(holder: Any, floors: Iterable[tuple[str, Floor]]) -> tuple[str, ...]:
    return tuple(name for name, floor in floors if is_noise(getattr(holder, name), floor))
