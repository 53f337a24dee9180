"""Where a cut took the letters alone: a model that falls by letters, and not by the texts of the same answers.

Letter choice needs a model to bind options to letters and to copy one back. In a pruned Llama a single head could
take letter MMLU from 66 to 25 (arXiv 2504.18574). The texts of the options do not hang on that.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.asking.tasks import TaskPlan
from eval.billing.statistics import Interval, accuracy_difference, accuracy_of, paired_mean_difference
from eval.runs.samples import RunResult, Sample

_FEWEST = 2  # questions: an interval needs as many


def letters_warnings(runs: Sequence[RunResult]) -> list[str]:
    """One line for each domain and model that falls by letters alone, on the questions that were asked both ways."""
    plans = {(plan.domain, plan.protocol): plan for plan in runs[0].tasks if plan.thinking is None}
    both = [
        (plan, plans[domain, "choice"])
        for (domain, name), plan in plans.items()
        if name == "letters" and (domain, "choice") in plans
    ]
    return [line for run in runs[1:] for letters, choice in both if (line := _line(runs[0], run, letters, choice))]


def _line(full: RunResult, run: RunResult, letters: TaskPlan, choice: TaskPlan) -> str:
    """What is to be said of one domain and model; "" for nothing."""
    sides = [{sample.id: sample for sample in r.of(plan)} for plan in (letters, choice) for r in (full, run)]
    asked = [name for name in sides[0] if all(name in side for side in sides)]
    if len({sides[0][name].unit for name in asked}) < _FEWEST:
        return ""
    answers = [[side[name] for name in asked] for side in sides]
    found = letters_alone(*answers, chance=choice.chance)
    if found is None:
        return ""
    fell, held = found
    return (
        f"{run.label}, {letters.domain}: only the letter form collapses. By letters it loses {_points(fell)}, by the "
        f"texts of the same {len(asked)} questions {_points(held)}: it may still know the answers, and no longer read "
        "the options back"
    )


def letters_alone(
    letters_full: Sequence[Sample],
    letters: Sequence[Sample],
    choice_full: Sequence[Sample],
    choice: Sequence[Sample],
    *,
    chance: float,
) -> tuple[Interval, Interval] | None:
    """The losses by letters and by texts where the letters alone fell, else None; a loss is positive, a share of 1.

    All four are answers to the same questions in one order. The letters fell alone where their loss is beyond its
    interval, that of the texts is not, and the first is the larger beyond the interval of their difference; and where
    the full model is above `chance` by texts, which could not fall otherwise.
    """
    units = [sample.unit for sample in choice_full]
    before, after = [s.correct for s in choice_full], [s.correct for s in choice]
    before_letters, after_letters = [s.correct for s in letters_full], [s.correct for s in letters]
    fell = accuracy_difference(before_letters, after_letters, units).negated
    held = accuracy_difference(before, after, units).negated
    change = [float(a) - float(b) for b, a in zip(before, after, strict=True)]
    change_letters = [float(a) - float(b) for b, a in zip(before_letters, after_letters, strict=True)]
    apart = paired_mean_difference(change, change_letters, units)
    if accuracy_of(before, units).low <= chance:
        return None
    return (fell, held) if fell.low > 0 and held.low <= 0 and apart.high < 0 else None


def _points(loss: Interval) -> str:
    return f"{100 * loss.estimate:.1f} points [{100 * loss.low:.1f}, {100 * loss.high:.1f}]"
