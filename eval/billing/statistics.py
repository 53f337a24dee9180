"""Paired statistics for two models on the same questions. Pure arithmetic: no files, models or screens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from prune.common.intervals import Interval

_UPPER = (1 + 0.95) / 2  # all intervals are of 95 %
POWERED = 1 + float(stats.norm.ppf(0.8)) / float(stats.norm.ppf(_UPPER))  # a truth of so many arms is seen in 80 %
_MOST_GAIN = 2.0  # what thinking gains on a question is -1, 0 or 1, so between two models it changes by 2 at most


@dataclass(frozen=True)
class Design:
    """How far the questions are from independent ones, where some share a passage.

    `effect`: by how much that widens the variance of a mean, 1 or more (see `design_effect`). `clusters`: how many
    passages there are; None where no two questions share one.
    """

    effect: float = 1.0
    clusters: int | None = None

    def __post_init__(self) -> None:
        if self.effect < 1:
            raise ValueError("a design effect is 1 or more")


INDEPENDENT = Design()


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided exact McNemar p-value from the discordant counts: a binomial test of lost against gained, p = 1/2."""
    if lost < 0 or gained < 0:
        raise ValueError("counts cannot be negative")
    if lost + gained == 0:
        return 1.0
    return float(stats.binomtest(lost, lost + gained, 0.5).pvalue)


def mean_interval(values: Sequence[float], clusters: Sequence[str]) -> Interval:
    """Mean of n values with Student's t interval; see `paired_mean_difference`."""
    return paired_mean_difference([0.0] * len(values), values, clusters)


def paired_mean_difference(
    before: Sequence[float], after: Sequence[float], clusters: Sequence[str] | None = None
) -> Interval:
    """Mean of after - before over the same n questions, with Student's t interval on G - 1 degrees of freedom.

    For quantities such as an answer's NLL. Questions of one cluster (a shared passage) may move together: the error is
    that of G cluster sums (Miller, arXiv 2411.00640, with the G / (G - 1) correction), which is the plain paired
    t interval where every question is a cluster of its own. The t quantile, not the normal one, because the spread of
    the differences is estimated from the same sample; from G = 100 on the two hardly differ.

    Args:
        before, after: shape (n,), in the same order of questions.
        clusters: shape (n,), a name each; every question its own if None. G >= 2 of them.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError("before and after must be of the same length")
    change = second - first
    mean = float(change.mean()) if change.size else 0.0
    influence = cluster_influence(change, clusters)
    if influence.size < 2:
        raise ValueError("an interval needs two questions or more, of two passages at least")
    margin = _t_quantile(influence.size - 1) * _error(influence)
    return Interval(mean, mean - margin, mean + margin)


def _error(influence: NDArray[np.float64]) -> float:
    """The standard error of a mean, or of a ratio, from what each of G clusters adds to it; G >= 2."""
    return math.sqrt(influence.size / (influence.size - 1) * float(influence @ influence))


def _sums(values: NDArray[np.float64], clusters: Sequence[str] | None) -> NDArray[np.float64]:
    """The sum of each cluster, shape (G,), by rising name; the values themselves where each is a cluster of its own."""
    if clusters is None:
        return values
    _, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    return np.bincount(numbers, weights=values).astype(np.float64)


def cluster_influence(values: ArrayLike, clusters: Sequence[str] | None = None) -> NDArray[np.float64]:
    """What each cluster adds to the error of the mean: its summed deviations over n, shape (G,), by rising name.

    The sum of squares, times G / (G - 1), is the cluster-robust variance of the mean.
    """
    numbers = np.asarray(values, dtype=np.float64)
    return _sums((numbers - numbers.mean()) / numbers.size if numbers.size else numbers, clusters)


def design_effect(values: ArrayLike, clusters: Sequence[str]) -> float:
    """By how much clusters widen the variance of a mean over n independent questions; never below 1.

    Where the values do not vary, nothing can be estimated from them: the most that clusters of these sizes can do is
    taken, as if all of a cluster always agreed (sum of squared sizes over n).
    """
    numbers = np.asarray(values, dtype=np.float64)
    _, sizes = np.unique(np.asarray(clusters), return_counts=True)
    if sizes.size == numbers.size:
        return 1.0
    plain = cluster_influence(numbers)
    spread = float(plain @ plain) * numbers.size / (numbers.size - 1)
    if spread <= 0 or sizes.size < 2:
        return float((sizes**2).sum() / numbers.size)
    grouped = cluster_influence(numbers, clusters)
    return max(1.0, float(grouped @ grouped) * sizes.size / (sizes.size - 1) / spread)


def design_of(values: Sequence[float], units: Sequence[str]) -> Design:
    """The design of questions with these values; `units` names what is independent."""
    clusters = len(set(units))
    return INDEPENDENT if clusters == len(units) else Design(design_effect(values, units), clusters)


def paired_ratio_difference(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float], clusters: Sequence[str] | None = None
) -> Interval:
    """Difference of two ratios over the same n items: (sum after - sum before) / sum weights.

    For a loss per token over windows of unequal length, where the mean of the windows' own differences would be
    another quantity than the difference of the two losses. The interval is the ratio estimator's linearisation
    (Cochran, Sampling Techniques, 3rd ed., eq. 6.9), with Student's t on n - 1 degrees of freedom.

    Args:
        before, after: shape (n,), n >= 2: each item's total, such as its summed NLL.
        weights: shape (n,), positive: each item's size, such as its tokens.
        clusters: shape (n,), a name each, of what may move together; every item its own if None. Two of them at least.
    """
    first, second, size = (np.asarray(values, dtype=np.float64) for values in (before, after, weights))
    if not first.shape == second.shape == size.shape or first.ndim != 1:
        raise ValueError("before, after and weights must be of the same length")
    positive = (size > 0).all()
    first, second, size = (_sums(values, clusters) for values in (first, second, size))
    if not positive or size.size < 2:
        raise ValueError("an interval needs two clusters or more, each of positive size")
    total = float(size.sum())
    change = float((second - first).sum()) / total
    margin = _t_quantile(size.size - 1) * (_error(second - first - change * size) / total)
    return Interval(change, change - margin, change + margin)


def paired_accuracy_difference(lost: int, gained: int, n: int, design: Design = INDEPENDENT) -> Interval:
    """Accuracy after - before, from flips among n paired questions, with Bonett and Price's adjusted Wald interval.

    The t interval on 0/1 verdicts is too narrow at few flips and has no width at none, though n questions
    without a flip do not prove that there are none. Bonett and Price (J. Educ. Behav. Stat. 37(4), 2012) add one
    to each discordant count and two to n before taking the Wald interval, which keeps its coverage there.
    The estimate itself is the plain (gained - lost) / n.

    Where questions share passages, counts are divided by the design effect first (n / design is the effective sample
    size, after Korn and Graubard, Survey Methodology 24(2), 1998), and t on clusters - 1 degrees of freedom is taken.
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError("flips must be counts within n")
    return _adjusted_wald(gained - lost, lost + gained, n, 1.0, design)


def paired_gain_difference(changes: Sequence[float], units: Sequence[str]) -> Interval:
    """Mean change of what thinking gains on a question, from the first model to the second.

    Such a change is -2, -1, 0, 1 or 2. The interval is that of `paired_accuracy_difference`, to which it comes down
    where fast answers stay as they are: a change by +1 and one by -1 are added to the sample, so that it keeps its
    coverage at few changes, and a width at none.

    Args:
        changes: shape (n,), n >= 1.
        units: shape (n,): what is independent, the same for questions of one passage.
    """
    if not changes or max(map(abs, changes)) > _MOST_GAIN:
        raise ValueError("a gain changes by 2 at most")
    squares = math.fsum(change * change for change in changes)
    return _adjusted_wald(math.fsum(changes), squares, len(changes), _MOST_GAIN, design_of(changes, units))


def paired_share_difference(before: Sequence[float], after: Sequence[float], units: Sequence[str]) -> Interval:
    """Mean of after - before of shares from 0 to 1, such as recall, over the same n trials.

    The interval is that of `paired_accuracy_difference`, to which it comes down where all shares are 0 or 1.

    Args:
        before, after: shape (n,), n >= 1, in the same order of trials.
        units: shape (n,): what is independent, the same for trials of one needle.
    """
    changes = [second - first for first, second in zip(before, after, strict=True)]
    if not changes or max(map(abs, changes)) > 1:
        raise ValueError("shares are from 0 to 1")
    squares = math.fsum(change * change for change in changes)
    return _adjusted_wald(math.fsum(changes), squares, len(changes), 1.0, design_of(changes, units))


def _adjusted_wald(total: float, squares: float, n: int, most: float, design: Design) -> Interval:
    """The mean of n changes within `most` from their sum and sum of squares, +1 and -1 added for the bounds."""
    size = n / design.effect + 2
    centre = total / design.effect / size
    margin = _quantile(design) * math.sqrt(((squares / design.effect + 2) / size - centre**2) / size)
    return Interval(total / n, max(-most, centre - margin), min(most, centre + margin))


def _quantile(design: Design) -> float:
    return float(stats.norm.ppf(_UPPER)) if design.clusters is None else _t_quantile(max(1, design.clusters - 1))


def questions_factor(interval: Interval) -> float | None:
    """How many times the questions would put the interval beyond 0 in 80 % of runs, were the estimate the truth.

    (`POWERED` * arm / |estimate|)^2, where the arm reaches from the estimate towards 0 and shrinks with the square root
    of the number of questions. None where the estimate is 0.
    """
    if interval.estimate == 0:
        return None
    arm = interval.estimate - interval.low if interval.estimate > 0 else interval.high - interval.estimate
    return (POWERED * arm / interval.estimate) ** 2


def _t_quantile(degrees: int) -> float:
    return float(stats.t.ppf(_UPPER, degrees))


def wilson(right: float, n: int, design: Design = INDEPENDENT) -> Interval:
    """Accuracy right / n with Wilson's score interval; `design` as in `paired_accuracy_difference`.

    For shares, such as recall, `right` is their sum; the interval is then too wide, if at all.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError("right answers must be a count within n")
    share, size, z = right / n, n / design.effect, _quantile(design)
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    margin = z / (1 + z * z / size) * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return Interval(share, max(0.0, centre - margin), min(1.0, centre + margin))


def accuracy_of(verdicts: Sequence[bool], units: Sequence[str]) -> Interval:
    """Share of right verdicts with its interval; `units` names what is independent."""
    return wilson(sum(verdicts), len(verdicts), design_of([float(verdict) for verdict in verdicts], units))


def accuracy_difference(before: Sequence[bool], after: Sequence[bool], units: Sequence[str]) -> Interval:
    """Accuracy after - before on the same questions, with its interval; `units` names what is independent."""
    lost, gained = flips(before, after)
    changes = [float(a) - float(b) for b, a in zip(before, after, strict=True)]
    return paired_accuracy_difference(lost, gained, len(before), design_of(changes, units))


def flips(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int]:
    """How many questions were lost (right, then wrong) and gained (wrong, then right)."""
    pairs = list(zip(before, after, strict=True))
    return sum(b and not a for b, a in pairs), sum(a and not b for b, a in pairs)


def retained_above_chance(accuracy: float, full: float, chance: float) -> float | None:
    """(accuracy - chance) / (full - chance); None where the full model is not above chance, so nothing can be kept."""
    return None if full <= chance else (accuracy - chance) / (full - chance)


def retained_interval(
    before: Sequence[bool], after: Sequence[bool], chance: float, clusters: Sequence[str] | None = None
) -> Interval | None:
    """Retained above chance with Fieller's interval for the ratio of two paired means.

    With x = after - chance and y = before - chance the interval holds each ratio r for which the mean of x - r y is
    within its own interval around 0 (Fieller, J. R. Stat. Soc. B 16(2), 1954), its variance by clusters. As in
    `paired_accuracy_difference`, a question lost and one gained are added to the sample for its bounds, so that few
    flips do not make it too narrow.

    Args:
        before, after: shape (n,): whether each question was right in the full model, and in the other.
        clusters: shape (n,); every question its own if None.

    Returns:
        None where the full model is not above chance, or so little that the interval has no end.
    """
    full, other = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    estimate = retained_above_chance(float(other.mean()), float(full.mean()), chance)
    if estimate is None:
        return None
    # The two added questions are clusters of their own: no name of a passage begins without "=", so none is theirs.
    names = [f"={name}" for name in (range(full.size) if clusters is None else clusters)] + ["lost", "gained"]
    y, x = (np.append(values, extra) - chance for values, extra in ((full, (1.0, 0.0)), (other, (0.0, 1.0))))
    from_x, from_y = cluster_influence(x, names), cluster_influence(y, names)
    groups = from_x.size
    scale = groups / (groups - 1) * _t_quantile(groups - 1) ** 2
    a = y.mean() ** 2 - scale * float(from_y @ from_y)
    b = x.mean() * y.mean() - scale * float(from_x @ from_y)
    c = x.mean() ** 2 - scale * float(from_x @ from_x)
    if a <= 0:
        return None
    root = math.sqrt(max(0.0, b * b - a * c))
    return Interval(estimate, float(b - root) / float(a), float(b + root) / float(a))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for several hypotheses (Scand. J. Stat. 6(2), 1979), in the order given."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def difference_of_intervals(first: Interval, second: Interval, *, correlation: float) -> Interval:
    """first - second with an interval made of theirs (MOVER: Zou and Donner, Stat. Med. 27(10), 2008; Zou, 2007).

    Each side's distance from estimate to bound stands for its error in that direction, so the interval keeps what is
    asymmetric in the two, and agrees with them. `correlation` of the two estimates is 0 for independent samples.
    """
    estimate = first.estimate - second.estimate
    down = _joined(first.estimate - first.low, second.high - second.estimate, correlation)
    up = _joined(first.high - first.estimate, second.estimate - second.low, correlation)
    return Interval(estimate, estimate - down, estimate + up)


def _joined(one: float, other: float, correlation: float) -> float:
    one, other = max(0.0, one), max(0.0, other)
    return math.sqrt(max(0.0, one * one + other * other - 2 * correlation * one * other))


def correlation_of_means(
    first: ArrayLike, first_clusters: Sequence[str], second: ArrayLike, second_clusters: Sequence[str]
) -> float:
    """Correlation of the means of two samples that share clusters; exactly 0 where they share none.

    Args:
        first, second: shapes (n,) and (m,).
        first_clusters, second_clusters: names, shapes (n,) and (m,); the same name in both is the same cluster.
    """
    sides = [
        dict(zip(sorted(set(clusters)), cluster_influence(values, clusters), strict=True))
        for values, clusters in ((first, first_clusters), (second, second_clusters))
    ]
    shared = sum(float(value * sides[1][name]) for name, value in sides[0].items() if name in sides[1])
    one, other = (np.array(list(side.values())) for side in sides)
    spread = math.sqrt(float(one @ one) * float(other @ other))
    return shared / spread if spread > 0 else 0.0
