"""Intervals of shares and means."""

import numpy as np
import pytest

from prune.common.intervals import bootstrap_mean, wilson


def test_wilson_is_the_textbook_interval():
    share = wilson(15, 18)
    assert (share.estimate, share.low, share.high) == (
        15 / 18,
        pytest.approx(0.608, abs=1e-3),
        pytest.approx(0.942, abs=1e-3),
    )
    assert wilson(0, 20).low == 0
    assert wilson(0, 20).high == pytest.approx(0.161, abs=1e-3)
    assert wilson(20, 20).high == 1
    with pytest.raises(ValueError, match="no share"):
        wilson(3, 2)


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
