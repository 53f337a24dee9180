"""Paired statistics against scipy, closed forms, published numbers and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.billing.rows.counts import ThinkingCounts, thinking_scores
from eval.billing.statistics import (
    Design,
    Interval,
    accuracy_difference,
    correlation_of_means,
    design_effect,
    difference_of_intervals,
    flips,
    holm,
    mcnemar_exact,
    paired_accuracy_difference,
    paired_gain_difference,
    paired_mean_difference,
    paired_ratio_difference,
    paired_share_difference,
    retained_interval,
    wilson,
)


def coverage(truth, interval):
    """The share of 2000 intervals that hold the truth; `interval()` draws numbers and gives one, or None."""
    found = [interval() for _ in range(2000)]
    return np.mean([one is not None and one.low <= truth <= one.high for one in found])


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_doubled_binomial_tail(lost, gained):
    n, least = lost + gained, min(lost, gained)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar_exact(lost, gained) == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_the_mean_difference_is_scipys_paired_t_interval():
    rng = np.random.default_rng(0)
    before, after = rng.normal(5, 2, 37), rng.normal(5.4, 2, 37)
    found = paired_mean_difference(before.tolist(), after.tolist())
    wanted = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.estimate == pytest.approx((after - before).mean())


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: mcnemar_exact(-1, 2), "negative"),
        (lambda: paired_mean_difference([1.0], [2.0]), "two questions"),
        (lambda: paired_mean_difference([1.0, 2.0], [2.0]), "same length"),
        (lambda: paired_mean_difference([0.0] * 2, [1.0, 3.0], ["a"] * 2), "two passages"),
        (lambda: paired_ratio_difference([3.0, 2.0], [4.0, 1.0], [1.0, 2.0], ["a"] * 2), "two clusters"),
        (lambda: paired_ratio_difference([3.0, 2.0], [4.0, 1.0], [1.0]), "weights"),
        (lambda: paired_ratio_difference([3.0, 2.0], [4.0, 1.0], [1.0, 0.0]), "positive"),
        (lambda: paired_accuracy_difference(3, 3, 5), "within n"),
        (lambda: thinking_scores([], [], []), "within n"),
        (lambda: ThinkingCounts(1, -1, 0, 0), "negative"),
        (lambda: paired_gain_difference([], []), "by 2 at most"),
        (lambda: paired_gain_difference([3.0], ["q"]), "by 2 at most"),
        (lambda: paired_share_difference([], [], []), "from 0 to 1"),
        (lambda: paired_share_difference([0.0], [2.0], ["q"]), "from 0 to 1"),
    ],
)
def test_what_no_interval_can_be_made_of(call, why):
    with pytest.raises(ValueError, match=why):
        call()


def test_the_ratio_difference_is_the_difference_of_the_ratios():
    before, after, size = [3.0, 10.0, 2.0], [4.0, 13.0, 1.0], [1.0, 5.0, 2.0]
    found = paired_ratio_difference(before, after, size)
    assert found.estimate == pytest.approx(sum(after) / 8 - sum(before) / 8)
    assert found.low < found.estimate < found.high
    equal = paired_ratio_difference(before, after, [2.0] * 3)  # clusters of one size: the plain paired t interval
    plain = paired_mean_difference([b / 2 for b in before], [a / 2 for a in after])
    assert (equal.low, equal.high) == pytest.approx((plain.low, plain.high))
    doubled = paired_ratio_difference(before * 2, after * 2, size * 2, ["a", "b", "c"] * 2)  # the same questions twice
    assert vars(doubled) == pytest.approx(vars(found))


def test_the_ratio_interval_covers_the_truth():
    rng = np.random.default_rng(0)

    def interval():
        size = rng.integers(20, 200, 64).astype(float)
        change = 0.3 * size + rng.normal(0, 0.2, 64) * size + rng.normal(0, 5, 64)
        return paired_ratio_difference(np.zeros(64), change, size)

    assert 0.93 <= coverage(0.3, interval) <= 0.97


@pytest.mark.parametrize(("p_lost", "p_gained", "n"), [(0.15, 0.05, 100), (0.3, 0.2, 60), (0.1, 0.1, 200)])
def test_the_accuracy_interval_covers_the_truth(p_lost, p_gained, n):
    rng = np.random.default_rng(2)
    draws = iter(rng.multinomial(n, [p_lost, p_gained, 1 - p_lost - p_gained], size=2000).tolist())
    share = coverage(p_gained - p_lost, lambda: paired_accuracy_difference(*next(draws)[:2], n))
    assert 0.93 <= share <= 0.97


def test_the_accuracy_interval_in_closed_form_and_at_no_flips():
    found = paired_accuracy_difference(12, 4, 98)
    a, b = 13 / 100, 5 / 100
    margin = 1.959963984540054 * math.sqrt((a + b - (b - a) ** 2) / 100)
    assert found.estimate == pytest.approx(-8 / 98)
    assert (found.low, found.high) == pytest.approx((b - a - margin, b - a + margin))
    still = paired_accuracy_difference(0, 0, 100)
    assert still.estimate == 0
    assert still.low < 0 < still.high


@pytest.mark.parametrize("n", [60, 200])
@pytest.mark.parametrize("rates", [(0.1, 0.05, 0.2, 0.05), (0.05, 0.05, 0.3, 0.1), (0.02, 0.01, 0.15, 0.05)], ids=str)
def test_the_interval_of_a_gain_covers_the_truth(rates, n):
    fast_lost, fast_gained, slow_lost, slow_gained = rates
    rng = np.random.default_rng(10)
    fast, slow = (
        rng.choice([-1.0, 1.0, 0.0], p=[lost, gained, 1 - lost - gained], size=(2000, n))
        for lost, gained in ((fast_lost, fast_gained), (slow_lost, slow_gained))
    )
    truth = (slow_gained - slow_lost) - (fast_gained - fast_lost)
    units = [str(i) for i in range(n)]
    changes = iter((slow - fast).tolist())
    assert 0.93 <= coverage(truth, lambda: paired_gain_difference(next(changes), units)) <= 0.97


@pytest.mark.parametrize(("loss", "most"), [(0.3, 0.98), (0.03, 1.0)])
def test_the_interval_of_recall_covers_the_truth(loss, most):
    """24 needles in 6 trials each; a trial loses some of its words, and all trials of a needle are alike in that."""
    rng = np.random.default_rng(12)
    needles, trials = 24, 6
    units = [str(needle) for needle in range(needles) for _ in range(trials)]

    def interval():
        own = rng.beta(3 * loss, 3 * (1 - loss), needles).repeat(trials)
        lost = np.where(rng.random(len(units)) < own, rng.integers(1, 5, len(units)) / 4, 0)
        return paired_share_difference([1.0] * len(units), (1 - lost).tolist(), units)

    assert 0.94 <= coverage(-loss * 5 / 8, interval) <= most


def test_the_interval_of_recall_is_that_of_accuracies_where_all_or_nothing_comes_back():
    before, after, units = [1.0, 1.0, 0.0, 1.0] * 6, [1.0, 0.0, 0.0, 1.0] * 6, [str(n // 2) for n in range(24)]
    same = accuracy_difference([b == 1 for b in before], [a == 1 for a in after], units)
    assert vars(paired_share_difference(before, after, units)) == pytest.approx(vars(same))


def test_the_interval_of_a_gain_is_never_too_narrow_where_little_changes():
    rng = np.random.default_rng(11)
    for n in (16, 60):
        units = [str(i) for i in range(n)]
        fast, slow = (rng.choice([-1.0, 1.0, 0.0], p=[0.01, 0.02, 0.97], size=(2000, n)) for _ in range(2))
        changes = iter((slow - fast).tolist())
        assert coverage(0, lambda: paired_gain_difference(next(changes), units)) >= 0.95  # noqa: B023
    still = paired_gain_difference([0.0] * 16, [str(i) for i in range(16)])
    assert (still.low, still.high) == pytest.approx((-0.1540, 0.1540), abs=1e-3)  # as of accuracies without a flip
    assert still == paired_accuracy_difference(0, 0, 16)
    clustered = paired_gain_difference([0.0] * 16, [str(i // 4) for i in range(16)])
    assert clustered.high > still.high


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


def _clustered(rng, groups, shared, *, biggest=6):
    """Names of clusters of 1 to `biggest` questions, and a normal value each that a cluster shares in part."""
    sizes = rng.integers(1, biggest + 1, groups)
    names = np.repeat([f"p{i}" for i in range(groups)], sizes)
    return names, np.repeat(rng.normal(0, shared, groups), sizes) + rng.normal(0, 1, sizes.sum())


def test_clusters_of_one_change_nothing():
    rng = np.random.default_rng(3)
    before, after = rng.normal(0, 1, 40), rng.normal(0.2, 1, 40)
    names = [f"q{i}" for i in range(40)]
    plain, clustered = paired_mean_difference(before, after), paired_mean_difference(before, after, names)
    assert (plain.low, plain.high) == pytest.approx((clustered.low, clustered.high), rel=1e-12)
    assert design_effect(after - before, names) == 1.0


def test_the_clustered_error_is_that_of_cluster_sums_by_hand():
    values, names = [1.0, 3.0, 2.0, 6.0, 8.0], ["a", "a", "b", "c", "c"]
    sums = np.array([1 + 3 - 2 * 4, 2 - 4, 6 + 8 - 2 * 4]) / 5  # deviations from the mean, 4, by cluster
    error = math.sqrt(3 / 2 * float(sums @ sums))
    found = paired_mean_difference([0.0] * 5, values, names)
    margin = 4.302652729911275 * error  # t at 97.5 % on 2 degrees of freedom
    assert (found.estimate, found.low, found.high) == pytest.approx((4, 4 - margin, 4 + margin))


def test_clustered_intervals_cover_the_truth_where_plain_ones_do_not():
    rng = np.random.default_rng(4)
    draws = [_clustered(rng, 60, shared=1.0) for _ in range(2000)]
    for clustered, least, most in ((True, 0.93, 0.97), (False, 0, 0.88)):
        each = iter(draws)

        def interval(each=each, clustered=clustered):
            names, change = next(each)
            return paired_mean_difference(np.zeros(len(change)), change + 0.3, names if clustered else None)

        assert least <= coverage(0.3, interval) <= most


def test_clustered_accuracy_covers_the_truth():
    rng = np.random.default_rng(5)
    truth = stats.norm.cdf(-0.2 / math.sqrt(2)) - stats.norm.cdf(-1.4 / math.sqrt(2))  # of what follows
    hits = shares = 0
    for _ in range(2000):
        names, hard = _clustered(rng, 80, shared=1.0)  # how hard each question is; its variance is 2
        before, after = hard > 0.2, hard > 1.4
        lost, gained = flips(before, after)
        design = design_effect(after.astype(float) - before, names)
        found = paired_accuracy_difference(lost, gained, len(hard), Design(design, 80))
        hits += found.low <= -truth <= found.high
        found = wilson(int(before.sum()), len(hard), Design(design_effect(before, names), 80))
        shares += found.low <= stats.norm.cdf(-0.2 / math.sqrt(2)) <= found.high
    assert 0.93 <= hits / 2000 <= 0.97
    assert 0.93 <= shares / 2000 <= 0.97


def test_the_design_effect_without_variation_is_the_worst_case():
    assert design_effect([0.0] * 6, ["a", "a", "a", "b", "b", "c"]) == pytest.approx((9 + 4 + 1) / 6)
    wide, narrow = (paired_accuracy_difference(0, 0, 60, Design(d)) for d in (2.0, 1.0))
    assert wide.high > narrow.high > 0


def test_the_retained_interval_is_fiellers():
    rng = np.random.default_rng(6)
    before = rng.random(150) < 0.6
    after = np.where(rng.random(150) < 0.2, ~before, before)
    found = retained_interval(before, after, 0.25)
    assert found.estimate == pytest.approx((after.mean() - 0.25) / (before.mean() - 0.25))
    assert found.low < found.estimate < found.high
    y, x = np.append(before, [1.0, 0.0]) - 0.25, np.append(after, [0.0, 1.0]) - 0.25
    for bound in (found.low, found.high):  # at a bound the mean of x - r y is just within its own interval around 0
        zero = paired_mean_difference(bound * y, x)
        assert min(abs(zero.low), abs(zero.high)) == pytest.approx(0, abs=1e-12)
    assert retained_interval(before, after, 0.75) is None
    assert retained_interval([True, False] * 10, [True, False] * 10, 0.45) is None  # above chance, but not surely


def test_the_retained_interval_covers_the_truth():
    rng = np.random.default_rng(7)

    def interval():
        before = rng.random(200) < 0.6
        after = np.where(before, rng.random(200) > 0.35, rng.random(200) < 0.2)
        return retained_interval(before, after, 0.25)

    assert 0.93 <= coverage((0.6 * 0.65 + 0.4 * 0.2 - 0.25) / 0.35, interval) <= 0.97


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p_values):
    places = range(len(p_values))
    subsets = [s for size in places for s in itertools.combinations(places, size + 1)]
    wanted = [max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets if place in s) for place in places]
    assert holm(p_values) == pytest.approx(wanted)


def test_the_difference_of_two_intervals_is_welchs_and_no_narrower():
    one, other = Interval(0.3, 0.1, 0.5), Interval(0.1, -0.2, 0.4)
    found = difference_of_intervals(one, other, correlation=0.0)
    assert found.estimate == pytest.approx(0.2)
    assert found.high - found.estimate == pytest.approx(math.hypot(0.2, 0.3))
    same = difference_of_intervals(one, one, correlation=1.0)
    assert (same.low, same.high) == (0, 0)
    skewed = difference_of_intervals(Interval(0.0, -0.1, 0.3), Interval(0.0, -0.05, 0.2), correlation=0.0)
    assert (skewed.low, skewed.high) == pytest.approx((-math.hypot(0.1, 0.2), math.hypot(0.3, 0.05)))


@pytest.mark.parametrize("lost", [(0.25, 0.1), (0.05, 0.02)])
def test_interactions_of_accuracy_cover_the_truth(lost):
    rng = np.random.default_rng(8)
    gained = (0.05, 0.03)
    truth = (lost[0] - gained[0]) - (lost[1] - gained[1])
    sizes = (150, 200)
    chances = [[a, b, 1 - a - b] for a, b in zip(lost, gained, strict=True)]
    draws = [iter(rng.multinomial(*each, 2000).tolist()) for each in zip(sizes, chances, strict=True)]

    def interval():
        flips = [next(draw)[1::-1] for draw in draws]  # the other way round: a loss is positive
        losses = (paired_accuracy_difference(*f, n) for f, n in zip(flips, sizes, strict=True))
        return difference_of_intervals(*losses, correlation=0.0)

    assert 0.93 <= coverage(truth, interval) <= 0.97


def test_interactions_of_nll_cover_the_truth_with_and_without_shared_questions():
    rng = np.random.default_rng(9)
    apart = shared = ignored = 0
    for _ in range(2000):
        change = rng.normal(0, 1, 160) + 0.5
        first, second = change[:100], change[60:] - 0.2  # 40 questions stand in both domains
        names = [f"q{i}" for i in range(160)]
        one, other = (paired_mean_difference(np.zeros(100), values) for values in (first, second))
        correlation = correlation_of_means(first, names[:100], second, names[60:])
        found = difference_of_intervals(one, other, correlation=correlation)
        shared += found.low <= 0.2 <= found.high
        found = difference_of_intervals(one, other, correlation=0.0)
        ignored += found.low <= 0.2 <= found.high
        alone = paired_mean_difference(np.zeros(60), rng.normal(0.3, 1, 60))
        found = difference_of_intervals(one, alone, correlation=0.0)
        apart += found.low <= 0.2 <= found.high
    assert 0.93 <= shared / 2000 <= 0.97
    assert 0.93 <= apart / 2000 <= 0.97
    assert ignored / 2000 > 0.975
    assert correlation_of_means([1.0, 2.0], ["a", "b"], [1.0, 3.0], ["c", "d"]) == 0
    assert correlation_of_means([1.0, 2.0], ["a", "b"], [1.0, 2.0], ["a", "b"]) == pytest.approx(1)
