"""Intervals of means."""

import numpy as np
import pytest

from prune.common.intervals import bootstrap_mean, student_mean


def test_an_interval_covers_the_mean_of_clustered_trials_and_drawn_runs():
    """The truth is that of other needles and other draws than those seen."""
    draw = np.random.default_rng(0)
    covered = 0
    for number in range(150):
        runs, needles = draw.normal(0, 0.1, (10, 1)), np.repeat(draw.normal(0, 0.3, 20), 3)
        values = 0.2 + runs + needles + draw.normal(0, 0.2, (10, 60))
        interval = bootstrap_mean(values, np.repeat(np.arange(20), 3).tolist(), seed=number)
        covered += interval.low <= 0.2 <= interval.high
    assert 0.88 <= covered / 150 <= 1


def test_a_bootstrap_repeats_itself_and_one_run_is_held_fixed():
    values = [[0.0, 1.0, 1.0, 0.0]]
    assert bootstrap_mean(values, list("abcd")) == bootstrap_mean(values, list("abcd"))
    same = bootstrap_mean([0.5, 0.5, 0.5], [1, 2, 3])
    assert (same.estimate, same.low, same.high) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="trials"):
        bootstrap_mean(values, [1, 2])


def test_the_interval_of_independent_values_is_students():
    from scipy.stats import t

    values = [0.2, 0.5, 0.4, 0.9]
    low, high = t.interval(0.95, 3, loc=np.mean(values), scale=np.std(values, ddof=1) / 2)
    interval = student_mean(values)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.5, low, high))
    assert student_mean([0.3, 0.3]).high == pytest.approx(0.3)
    with pytest.raises(ValueError, match="an interval of 1 values"):
        student_mean([1.0])
