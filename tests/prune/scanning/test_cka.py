"""CKA of two states of each sample: against its definition, and what the plain estimator gets wrong."""

from itertools import permutations

import numpy as np
import pytest

from prune.scanning.cka import linear_cka, paired_cka, plain_cka


def _by_definition(first, second, weights):
    """CKA of HSIC as a weighted mean over all quadruples of unlike samples."""
    i, j, p, q = np.array(list(permutations(range(len(first)), 4))).T
    weight = weights[i] * weights[j] * weights[p] * weights[q]

    def hsic(k, m):
        return (weight * (k[i, j] * m[i, j] + k[i, j] * m[p, q] - 2 * k[i, j] * m[i, p])).sum() / weight.sum()

    one, two = first @ first.T, second @ second.T
    return hsic(one, two) / np.sqrt(hsic(one, one) * hsic(two, two))


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(7, 3))
    return first, first[:, :2] + 0.5 * rng.normal(size=(7, 2)) + 4.0


def test_it_is_its_definition_and_with_equal_weights_that_of_the_scan(sides):
    weights = np.array([np.ones(7), [1, 2, 0, 1, 3, 0, 1], [0, 1, 1, 1, 1, 1, 1]], dtype=float)
    found = paired_cka(*sides, weights)
    assert found == pytest.approx([_by_definition(*sides, row) for row in weights], abs=1e-10)
    both = np.stack([np.pad(side, ((0, 0), (0, 3 - side.shape[1]))) for side in sides], axis=1)
    assert found[0] == pytest.approx(linear_cka(both)[0, 1], abs=1e-12)
    assert found[2] == pytest.approx(linear_cka(both[1:])[0, 1], abs=1e-12)  # a weight of 0 leaves the sample out


def test_independent_states_of_more_dimensions_than_samples():
    rng = np.random.default_rng(1)
    pairs = [rng.normal(size=(2, 30, 500)) for _ in range(20)]
    debiased = [paired_cka(*pair, np.ones((1, 30)))[0] for pair in pairs]
    assert abs(np.mean(debiased)) < 0.03
    assert np.abs(debiased).max() < 0.15
    assert min(plain_cka(*pair) for pair in pairs) > 0.9  # what a reader would take for two like layers


def test_turns_shifts_and_scales_change_nothing():
    rng = np.random.default_rng(2)
    first = rng.normal(size=(12, 6))
    second = first + rng.normal(size=(12, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    one = np.ones((1, 12))
    assert paired_cka(first, first, one) == pytest.approx(1.0, abs=1e-12)
    assert paired_cka(first, 7 * first @ turn + 100, one) == pytest.approx(1.0, abs=1e-9)
    assert paired_cka(first, 7 * second @ turn + 100, one) == pytest.approx(paired_cka(first, second, one), abs=1e-9)
    assert plain_cka(first, 7 * second @ turn + 100) == pytest.approx(plain_cka(first, second), abs=1e-9)


def test_what_has_no_likeness_is_no_number():
    rng = np.random.default_rng(3)
    states, same = rng.normal(size=(9, 5)), np.tile(rng.normal(size=5), (9, 1))
    assert np.isnan(paired_cka(states, same, np.ones((2, 9)))).all()
    assert np.isnan(plain_cka(same, states))
    assert np.isnan(paired_cka(states[:3], states[:3], np.ones((1, 3)))).all()
    three = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0], np.ones(9)])
    assert np.isnan(paired_cka(states, states, three)).tolist() == [True, False]
