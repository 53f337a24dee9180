"""Paired statistics against scipy, closed forms, published numbers and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.statistics import (
    flips,
    mcnemar_exact,
    paired_accuracy_difference,
    paired_mean_difference,
    paired_ratio_difference,
    retained_above_chance,
    wilson,
)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_doubled_binomial_tail(lost, gained):
    n, least = lost + gained, min(lost, gained)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar_exact(lost, gained) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_mcnemar_known_values():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 6) == pytest.approx(0.03125)
    assert mcnemar_exact(5, 15) == pytest.approx(0.04138947, abs=1e-8)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 2)


def test_the_mean_difference_is_scipys_paired_t_interval():
    rng = np.random.default_rng(0)
    before, after = rng.normal(5, 2, 37), rng.normal(5.4, 2, 37)
    found = paired_mean_difference(before.tolist(), after.tolist())
    wanted = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.estimate == pytest.approx((after - before).mean())


def test_the_mean_difference_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="two questions"):
        paired_mean_difference([1.0], [2.0])
    with pytest.raises(ValueError, match="same length"):
        paired_mean_difference([1.0, 2.0], [2.0])


def test_the_ratio_difference_is_the_difference_of_the_ratios():
    before, after, size = [3.0, 10.0, 2.0], [4.0, 13.0, 1.0], [1.0, 5.0, 2.0]
    found = paired_ratio_difference(before, after, size)
    assert found.estimate == pytest.approx(sum(after) / 8 - sum(before) / 8)
    assert found.low < found.estimate < found.high
    equal = paired_ratio_difference(before, after, [2.0] * 3)  # clusters of one size: the plain paired t interval
    plain = paired_mean_difference([b / 2 for b in before], [a / 2 for a in after])
    assert (equal.low, equal.high) == pytest.approx((plain.low, plain.high))
    for wrong in ([1.0, 2.0], [1.0, 0.0, 1.0]):
        with pytest.raises(ValueError, match="weights|positive"):
            paired_ratio_difference(before, after, wrong)


def test_the_ratio_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        size = rng.integers(20, 200, 64).astype(float)
        change = 0.3 * size + rng.normal(0, 0.2, 64) * size + rng.normal(0, 5, 64)
        found = paired_ratio_difference(np.zeros(64), change, size)
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / 2000 <= 0.97


def test_the_mean_interval_covers_the_truth():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        change = rng.normal(0.3, 1.5, 25)
        found = paired_mean_difference(np.zeros(25), change)
        hits += found.low <= 0.3 <= found.high
    assert 0.93 <= hits / 2000 <= 0.97


@pytest.mark.parametrize(("p_lost", "p_gained", "n"), [(0.15, 0.05, 100), (0.3, 0.2, 60), (0.1, 0.1, 200)])
def test_the_accuracy_interval_covers_the_truth(p_lost, p_gained, n):
    rng = np.random.default_rng(2)
    draws = rng.multinomial(n, [p_lost, p_gained, 1 - p_lost - p_gained], size=2000)
    truth = p_gained - p_lost
    hits = 0
    for lost, gained, _ in draws:
        found = paired_accuracy_difference(int(lost), int(gained), n)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 2000 <= 0.975


def test_the_accuracy_interval_in_closed_form_and_at_no_flips():
    found = paired_accuracy_difference(12, 4, 98)
    a, b = 13 / 100, 5 / 100
    margin = 1.959963984540054 * math.sqrt((a + b - (b - a) ** 2) / 100)
    assert found.estimate == pytest.approx(-8 / 98)
    assert (found.low, found.high) == pytest.approx((b - a - margin, b - a + margin))
    still = paired_accuracy_difference(0, 0, 100)
    assert still.estimate == 0
    assert still.low < 0 < still.high
    with pytest.raises(ValueError, match="within n"):
        paired_accuracy_difference(3, 3, 5)


@given(st.integers(1, 300), st.data())
def test_wilson_in_closed_form(n, data):
    right = data.draw(st.integers(0, n))
    z, p = 1.959963984540054, right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(right, n)
    assert (found.low, found.high) == pytest.approx((centre - margin, centre + margin), abs=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1))
def test_flips_account_for_the_change_in_accuracy(pairs):
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    lost, gained = flips(before, after)
    assert sum(after) - sum(before) == gained - lost
    assert flips(after, before) == (gained, lost)


def test_retained_above_chance():
    assert retained_above_chance(0.40, 0.55, 0.25) == pytest.approx(0.5)
    assert retained_above_chance(0.20, 0.55, 0.25) == pytest.approx(-1 / 6)
    assert retained_above_chance(0.30, 0.25, 0.25) is None
