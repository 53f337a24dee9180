"""The bill of recall: what each model brings back of needles in haystacks, paired trial by trial with the full one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.billing.statistics import (
    Interval,
    accuracy_difference,
    accuracy_of,
    design_of,
    paired_share_difference,
    wilson,
)
from eval.runs.samples import RunResult
from prune.choosing.heads import TrialRow
from prune.common.errors import RegrowthError
from prune.instruments.scores import ANSWERED

_LITTLE = 0.2  # share of trials; a full model that answers fewer has little to lose


@dataclass(frozen=True)
class NeedleRow:
    """Needle recall of one model at one length, or at all together; differences are this model - full.

    `noise`: names of the differences that are within the noise floor, None where it was not measured.
    """

    model: str
    length: int | None
    needles: int
    trials: int
    recall: Interval
    answered: Interval
    recall_difference: Interval | None
    answered_difference: Interval | None
    noise: tuple[str, ...] | None = None


def bill_needles(runs: Sequence[RunResult]) -> list[NeedleRow]:
    """All lengths together, then each of them; of each, the full model first. Nothing if less than two needles count.

    Raises:
        RegrowthError: a model was not asked the trials that the full one was.
    """
    check_needles({run.label: run.needles_sha256 for run in runs})
    counted = counted_needles(runs)
    if len(counted) < 2:
        return []
    lengths = sorted({trial.length for trial in _trials(runs[0])})
    groups: list[int | None] = [None, *(lengths if len(lengths) > 1 else [])]
    return [_row(runs[0], run, counted, length) for length in groups for run in runs]


def check_needles(asked: Mapping[str, str | None]) -> None:
    """Refuse models that were not asked the trials of the first; `asked`: label -> `sha256` of its trials, or None."""
    (first, wanted), *others = asked.items()
    for label, trials in others:
        if (trials is None) != (wanted is None):
            only, other = (first, label) if trials is None else (label, first)
            raise RegrowthError(f"not paired: {only} is asked for needles, and {other} is not; ask both with --needles")
        if trials != wanted:
            raise RegrowthError(
                f"not paired: {label} is asked for other needles than {first}, or in other words; ask both with the "
                "same text, --needle-lengths, --needle-depths, --needle-count, --seed and --chat-template"
            )


def counted_needles(runs: Sequence[RunResult]) -> tuple[int, ...]:
    """Needles that none of the models answers without any text."""
    known = {needle for run in runs if run.needles is not None for needle in run.needles.known}
    return tuple(sorted({trial.needle for trial in _trials(runs[0])} - known))


def needle_warnings(runs: Sequence[RunResult]) -> list[str]:
    """What a reader must know before the rows: needles that are left out, and a full model with little to lose."""
    asked = {trial.needle for trial in _trials(runs[0])}
    if not asked:
        return []
    counted = counted_needles(runs)
    lines = []
    if out := sorted(asked - set(counted)):
        lines.append(f"{len(out)} of {len(asked)} needles are left out: a model answers them without any text")
    if len(counted) < 2:
        return [*lines, "needle recall is not billed: an interval needs two needles at least"]
    answered = [trial.recall > ANSWERED for trial in _trials(runs[0]) if trial.needle in counted]
    if sum(answered) < _LITTLE * len(answered):
        share = f"{100 * sum(answered) / len(answered):.0f} %"
        lines.append(f"{runs[0].label} answers {share} of the needle trials, so that there is little recall to lose")
    return lines


def _row(full: RunResult, run: RunResult, counted: Sequence[int], length: int | None) -> NeedleRow:
    before, after = (
        [trial for trial in _trials(each) if trial.needle in counted and length in (None, trial.length)]
        for each in (full, run)
    )
    units = [str(trial.needle) for trial in after]  # trials of one needle are alike
    was, now = ([trial.recall for trial in side] for side in (before, after))
    was_right, right = ([share > ANSWERED for share in side] for side in (was, now))
    return NeedleRow(
        model=run.label,
        length=length,
        needles=len(counted),
        trials=len(after),
        recall=wilson(sum(now), len(now), design_of(now, units)),
        answered=accuracy_of(right, units),
        recall_difference=None if run is full else paired_share_difference(was, now, units),
        answered_difference=None if run is full else accuracy_difference(was_right, right, units),
    )


def _trials(run: RunResult) -> tuple[TrialRow, ...]:
    return () if run.needles is None else run.needles.trials
