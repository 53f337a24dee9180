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


def bootstrap_mean(values: ArrayLike, clusters: Sequence[int | str], *, seed: int = 0) -> Interval:
    """The mean of values of R runs over the same T trials, with a percentile interval.

    Runs and clusters of trials are both drawn anew with replacement (the pigeonhole bootstrap, arXiv 0712.1111), as
    both are a sample: of the random draws that could have been made, and of the needles that could have been written.
    One run alone is held fixed.

    Args:
        values: shape (R, T), such as the fall of each trial's recall in each run.
        clusters: shape (T,), what each trial belongs to, such as its needle.

    Raises:
        ValueError: no value, or another number of clusters than trials.
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not table.size or table.shape[1] != len(clusters):
        raise ValueError(f"{table.shape} values of {len(clusters)} trials")
    _, places = np.unique(np.asarray(clusters), return_inverse=True)
    groups = int(places.max()) + 1
    sums = np.zeros((table.shape[0], groups))
    np.add.at(sums.T, places, table.T)
    sizes = np.bincount(places, minlength=groups).astype(np.float64)
    draw = np.random.default_rng(seed)
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
