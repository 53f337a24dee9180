"""How sure an estimate is: intervals and standard errors. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RESAMPLES = 4000

Values = TypeVar("Values", float, NDArray[np.float64])


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95 % interval."""

    estimate: float
    low: float
    high: float

    @property
    def negated(self) -> Interval:
        """The interval of the loss, where this is that of the change; never a negative zero."""
        return Interval(0.0 - self.estimate, 0.0 - self.high, 0.0 - self.low)


_SPREAD = 1e-4  # share of the sample's error; a resample's below it is rounding


def bootstrap_mean(values: ArrayLike, clusters: Sequence[int | str]) -> Interval:
    """The mean of values of R runs over the same T trials, with a percentile interval.

    Runs and clusters of trials are both drawn anew with replacement (the pigeonhole bootstrap, arXiv 0712.1111), as
    both are a sample: of the random draws that could have been made, and of the needles that could have been written.
    One run alone is held fixed. Each call draws the same resamples, whatever `--seed` says: two numbers differ by
    their values alone.

    Args:
        values: shape (R, T), such as the fall of each trial's recall in each run.
        clusters: shape (T,), what each trial belongs to, such as its needle.

    Raises:
        ValueError: no value, or another number of clusters than trials.
    """
    table, places = _placed(values, clusters)
    groups = int(places.max()) + 1
    sums = _summed(table, places)
    sizes = np.bincount(places, minlength=groups).astype(np.float64)
    draw = np.random.default_rng(0)
    runs = table.shape[0]
    weights = draw.multinomial(groups, np.full(groups, 1 / groups), size=_RESAMPLES).astype(np.float64)
    of_runs = draw.multinomial(runs, np.full(runs, 1 / runs), size=_RESAMPLES) / runs
    means = (of_runs @ sums * weights).sum(1) / (weights @ sizes)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(table.mean()), float(low), float(high))


def student_mean(values: ArrayLike) -> Interval:
    """The mean of independent values, such as those of samples drawn anew, with Student's t interval.

    Args:
        values: shape (R,), of two or more.

    Raises:
        ValueError: fewer than two.
    """
    from scipy.special import stdtrit

    each = np.asarray(values, dtype=np.float64)
    if each.ndim != 1 or len(each) < 2:
        raise ValueError(f"an interval of {each.size} values")
    mean = float(each.mean())
    half = float(stdtrit(len(each) - 1, 0.975) * each.std(ddof=1) / np.sqrt(len(each)))
    return Interval(mean, mean - half, mean + half)


def _placed(values: ArrayLike, clusters: Sequence[int | str]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Values as a table (R, T), and the number of each trial's cluster by rising name, (T,)."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not table.size or table.shape[1] != len(clusters):
        raise ValueError(f"{table.shape} values of {len(clusters)} trials")
    return table, np.unique(np.asarray(clusters), return_inverse=True)[1]


def _summed(table: NDArray[np.float64], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums by cluster, (R, G), of values of shape (R, T)."""
    sums = np.zeros((table.shape[0], int(places.max()) + 1))
    np.add.at(sums.T, places, table.T)
    return sums


@dataclass(frozen=True)
class Estimates:
    """K estimates from one sample and from R resamples of it, each with its variance: shapes (R + 1, K), sample first.

    Less another one, both of independent samples and as many resamples, it is that of the differences.
    """

    values: NDArray[np.float64]
    variances: NDArray[np.float64]

    def __sub__(self, other: Estimates) -> Estimates:
        return Estimates(self.values - other.values, self.variances + other.variances)

    def intervals(self, *, joint: bool = False) -> list[Interval]:
        """The symmetric bootstrap-t interval of each (Hall, J. R. Stat. Soc. B 50(1), 1988); NaN where it is no number.

        Each is estimate -+ c * error, and c the 95 % quantile over resamples of |estimate there - estimate| / error
        there. A percentile interval takes no account of the error of the error, and is too narrow for few clusters and
        for values of heavy tails. `joint`: one c, of the largest of the K (max-t), so that all hold at once with 95 %.
        """
        errors = np.sqrt(np.maximum(self.variances, 0.0))
        # A resample without any spread, such as of one cluster alone, says nothing of the error.
        spread = np.where(errors > _SPREAD * errors[0], errors, errors[0])
        away = np.abs(self.values - self.values[0])[1:]
        scores = np.divide(away, spread[1:], out=np.zeros_like(away), where=spread[1:] > 0)
        factors = np.quantile(scores.max(1) if joint else scores, 0.95, axis=0)
        margins = factors * errors[0]
        centres = self.values[0]
        return [Interval(float(e), float(e - m), float(e + m)) for e, m in zip(centres, margins, strict=True)]


@dataclass(frozen=True)
class Redraws:
    """Resamples of T trials by their clusters, which are drawn whole, with replacement.

    All estimates that are made of the same resamples are paired.

    Attributes:
        places: the number of each trial's cluster, shape (T,).
        weights: how often each cluster is in the sample itself (once) and in each resample, shape (R + 1, G).
    """

    places: NDArray[np.intp]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, clusters: Sequence[int | str] | NDArray[np.int64], *, resamples: int, seed: int | list[int]) -> Redraws:
        """Resamples of trials of these clusters, shape (T,).

        Raises:
            ValueError: no trial.
        """
        places = np.unique(np.asarray(clusters), return_inverse=True)[1]
        if not places.size:
            raise ValueError("there is no trial to draw anew")
        groups = int(places.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
        return cls(places, np.vstack([np.ones(groups), drawn]))

    @property
    def clusters(self) -> int:
        """How many."""
        return self.weights.shape[1]

    def means(self, values: ArrayLike) -> Estimates:
        """Means of K rows of values over the trials, shape (K, T)."""
        table = np.atleast_2d(np.asarray(values, dtype=np.float64))
        return self.ratios(table, np.ones_like(table))

    def ratios(self, *parts: ArrayLike) -> Estimates:
        """Sum of A over sum of B for each of K rows; of four parts, sum A / sum B - sum C / sum D.

        The variance is the linearisation's (Cochran, Sampling Techniques, eq. 6.9), times G / (G - 1). Where the
        resample's B (or D) sums to 0 there is no ratio, and it counts as the sample's.

        Args:
            parts: A and B, or A, B, C and D, each of shape (K, T).

        Raises:
            ValueError: fewer than two clusters.
        """
        if self.clusters < 2:
            raise ValueError("an interval needs two clusters or more")
        tables = [np.atleast_2d(np.asarray(part, dtype=np.float64)) for part in parts]
        sums = [_summed(table, self.places) for table in tables]
        totals = [self.weights @ rows.T for rows in sums]
        values = np.zeros_like(totals[0])
        slopes: list[NDArray[np.float64]] = []  # of the value in each part's total
        for sign, (over, under) in zip((1.0, -1.0), zip(totals[::2], totals[1::2], strict=True), strict=False):
            safe = np.where(under == 0, np.nan, under)
            values = values + sign * over / safe
            slopes += [sign / safe, -sign * over / safe**2]
        squares = np.zeros_like(values)
        for i, first in enumerate(sums):
            for j in range(i, len(sums)):
                products = self.weights @ (first * sums[j]).T
                squares += (1 if i == j else 2) * slopes[i] * slopes[j] * products
        variances = squares * self.clusters / (self.clusters - 1)
        missing = np.isnan(values)
        return Estimates(np.where(missing, values[0], values), np.where(missing, variances[0], variances))


def ratio_stderr(squares: Values, count: int, weight: float) -> Values:
    """Standard error of R = sum S_i / sum w_i over `count` >= 2 clusters (Cochran, Sampling Techniques, eq. 6.9).

    Tokens of one cluster are not independent, clusters are. With w_i = 1 it is sd / sqrt(count).

    Args:
        squares: sum of (S_i - R w_i)^2; rounding may leave it a little below 0.
        count: how many clusters there are.
        weight: sum of w_i.
    """
    result: Values = np.sqrt(np.maximum(squares, 0.0) * count / (count - 1)) / weight
    return result
