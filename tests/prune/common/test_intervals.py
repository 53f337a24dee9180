"""Intervals of means."""

import numpy as np
import pytest

from prune.common.intervals import Estimates, Redraws, bootstrap_mean, student_mean


def test_an_interval_covers_the_mean_of_clustered_trials_and_drawn_runs():
    """The truth is that of other needles and other draws than those seen."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(150):
        runs, needles = draw.normal(0, 0.1, (10, 1)), np.repeat(draw.normal(0, 0.3, 20), 3)
        values = 0.2 + runs + needles + draw.normal(0, 0.2, (10, 60))
        interval = bootstrap_mean(values, np.repeat(np.arange(20), 3).tolist())
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


def test_ratios_are_those_of_sums_and_their_error_is_the_linearisations():
    draw = np.random.default_rng(1)
    over, under = draw.normal(2, 1, (2, 90)), draw.gamma(3, 1, (2, 90))
    redraws = Redraws.of(np.repeat(np.arange(30), 3), resamples=50, seed=0)
    found = redraws.ratios(over, under)
    assert redraws.clusters == 30
    assert found.values[0] == pytest.approx(over.sum(1) / under.sum(1))
    left = (over - found.values[0][:, None] * under).reshape(2, 30, 3).sum(2)
    assert found.variances[0] == pytest.approx(30 / 29 * (left**2).sum(1) / under.sum(1) ** 2)
    assert redraws.means(over).values[0] == pytest.approx(over.mean(1))
    assert np.std(found.values[1:], axis=0) == pytest.approx(np.sqrt(found.variances[0]), rel=0.35)


def test_a_difference_of_ratios_of_the_same_trials_is_paired():
    draw = np.random.default_rng(2)
    over, under = draw.normal(2, 1, 60), draw.gamma(3, 1, 60)
    redraws, other = (Redraws.of(np.arange(60), resamples=400, seed=seed) for seed in (0, 1))
    paired = redraws.ratios(over, under, over + 0.1 * under, under).intervals()[0]
    apart = (redraws.ratios(over, under) - other.ratios(over + 0.1 * under, under)).intervals()[0]
    assert paired.estimate == pytest.approx(-0.1) == apart.estimate
    assert paired.high - paired.low < 1e-6 < apart.high - apart.low
    reverse = redraws.ratios(over, under, under, over)
    turned = redraws.ratios(under, over, over, under)
    assert reverse.variances == pytest.approx(turned.variances)


def test_joint_intervals_hold_together():
    """Ten means at once, of 20 clusters with a heavy tail; alone the ten would hold in about 60 of 100."""
    draw = np.random.default_rng(3)
    together = alone = 0
    for number in range(100):
        values = np.repeat(draw.exponential(1, (10, 20)), 2, axis=1) + draw.normal(0, 0.2, (10, 40))
        estimates = Redraws.of(np.repeat(np.arange(20), 2), resamples=300, seed=number).means(values)
        for joint in (False, True):
            held = all(found.low <= 1 <= found.high for found in estimates.intervals(joint=joint))
            together, alone = together + (held and joint), alone + (held and not joint)
    assert together >= 88
    assert 40 <= alone <= together - 10


def test_what_does_not_vary_has_no_width_and_resamples_without_a_ratio_do_no_harm():
    redraws = Redraws.of(list("abcd"), resamples=200, seed=0)
    same = redraws.means([0.5] * 4).intervals()[0]
    assert (same.low, same.high) == (0.5, 0.5)
    rare = redraws.ratios([1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0]).intervals()[0]
    assert np.isfinite([rare.low, rare.high]).all()
    with pytest.raises(ValueError, match="two clusters"):
        Redraws.of(["a", "a"], resamples=10, seed=0).means([0.5, 0.7])
    with pytest.raises(ValueError, match="no trial"):
        Redraws.of([], resamples=10, seed=0)


def test_a_resample_whose_spread_is_rounding_says_nothing_of_the_error():
    values = np.array([[0.3, 0.1, 0.2]])
    variances = np.array([[1e-2], [1e-17], [1e-2]])
    found = Estimates(values.T, variances).intervals()[0]
    assert found.high - found.low < 1
