"""Paired statistics for two models on the same questions. Pure arithmetic: no files, models or screens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with its lower and upper bound."""

    estimate: float
    low: float
    high: float


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact McNemar p-value from the discordant counts: a binomial test of lost against gained, p = 1/2.

    Args:
        lost: questions right in the first model and wrong in the second.
        gained: wrong in the first and right in the second.

    Returns:
        The p-value; 1 where no question changed.
    """
    if lost < 0 or gained < 0:
        raise ValueError("counts cannot be negative")
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def paired_mean_difference(before: Sequence[float], after: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean of after - before over the same n questions, with Student's t interval on n - 1 degrees of freedom.

    For quantities such as an answer's NLL. The t quantile, not the normal one, because the spread of the
    differences is estimated from the same sample; from n = 100 on the two hardly differ.

    Args:
        before, after: shape (n,), n >= 2, in the same order of questions.
        level: coverage of the interval.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError("before and after must be of the same length")
    if first.size < 2:
        raise ValueError("an interval needs two questions or more")
    change = second - first
    mean = float(change.mean())
    margin = float(stats.t.ppf((1 + level) / 2, change.size - 1) * change.std(ddof=1) / math.sqrt(change.size))
    return Interval(mean, mean - margin, mean + margin)


def paired_ratio_difference(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float], *, level: float = 0.95
) -> Interval:
    """Difference of two ratios over the same n clusters: (sum after - sum before) / sum weights.

    For a loss per token over windows of unequal length, where the mean of the windows' own differences would be
    another quantity than the difference of the two losses. The interval is the ratio estimator's linearisation
    (Cochran, Sampling Techniques, 3rd ed., eq. 6.9), with Student's t on n - 1 degrees of freedom.

    Args:
        before, after: shape (n,), n >= 2: each cluster's total, such as its summed NLL.
        weights: shape (n,), positive: each cluster's size, such as its tokens.
        level: coverage of the interval.
    """
    first, second, size = (np.asarray(values, dtype=np.float64) for values in (before, after, weights))
    if not first.shape == second.shape == size.shape or first.ndim != 1:
        raise ValueError("before, after and weights must be of the same length")
    if first.size < 2 or (size <= 0).any():
        raise ValueError("an interval needs two clusters or more, each of positive size")
    n, total = first.size, float(size.sum())
    change = float((second - first).sum()) / total
    residuals = second - first - change * size
    error = math.sqrt(n / (n - 1) * float(residuals @ residuals)) / total
    margin = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    return Interval(change, change - margin, change + margin)


def paired_accuracy_difference(lost: int, gained: int, n: int, *, level: float = 0.95) -> Interval:
    """Accuracy after - before, from flips among n paired questions, with Bonett and Price's adjusted Wald interval.

    The t interval on 0/1 verdicts is too narrow at few flips and has no width at none, though n questions
    without a flip do not prove that there are none. Bonett and Price (J. Educ. Behav. Stat. 37(4), 2012) add one
    to each discordant count and two to n before taking the Wald interval, which keeps its coverage there.
    The estimate itself is the plain (gained - lost) / n.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError("flips must be counts within n")
    p_lost, p_gained = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    centre = p_gained - p_lost
    z = float(stats.norm.ppf((1 + level) / 2))
    margin = z * math.sqrt((p_lost + p_gained - centre**2) / (n + 2))
    return Interval((gained - lost) / n, max(-1.0, centre - margin), min(1.0, centre + margin))


def wilson(right: int, n: int, *, level: float = 0.95) -> Interval:
    """Accuracy right / n with Wilson's score interval."""
    if n < 1 or not 0 <= right <= n:
        raise ValueError("right answers must be a count within n")
    found = stats.binomtest(right, n).proportion_ci(level, method="wilson")
    return Interval(right / n, float(found.low), float(found.high))


def flips(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int]:
    """How many questions were lost (right, then wrong) and gained (wrong, then right)."""
    pairs = list(zip(before, after, strict=True))
    return sum(b and not a for b, a in pairs), sum(a and not b for b, a in pairs)


def retained_above_chance(accuracy: float, full: float, chance: float) -> float | None:
    """(accuracy - chance) / (full - chance); None where the full model is not above chance, so nothing can be kept."""
    return None if full <= chance else (accuracy - chance) / (full - chance)
