"""Intervals for shares and means of a few dozen trials. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_NORMAL = 1.959964  # the 97.5 % quantile of the normal distribution
_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval:
    """A share and its Wilson score interval, which holds near 0 and 1 and for few trials too.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share")
    share, square = successes / trials, _NORMAL**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    margin = _NORMAL / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    low = 0.0 if successes == 0 else centre - margin
    high = 1.0 if successes == trials else centre + margin
    return Interval(share, low, high)


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
