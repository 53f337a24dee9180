"""The angular distance and its mean, against plain numpy and by their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from prune.common.errors import UsageError
from prune.common.layers import best_start, deepest_start, lowest_influence
from prune.scanning.angles import MeanSums, angular_distances, rows

STATES = arrays.arrays(
    np.float64, (4, 5), elements=st.floats(-1e3, 1e3, allow_nan=False).map(lambda v: v if abs(v) > 1e-3 else 1.0)
)


def distance(u, v):
    return float(angular_distances(torch.stack([torch.as_tensor(u), torch.as_tensor(v)]))[0])


def test_matches_plain_numpy_for_every_pair():
    states = torch.tensor(np.random.default_rng(0).normal(size=(3, 7, 16)))
    got = angular_distances(states).numpy()
    for sample in range(3):
        for n, row in enumerate(rows(got[sample], 6), start=1):
            for start, value in enumerate(row):
                u, v = states[sample, start].numpy(), states[sample, start + n].numpy()
                plain = np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)) / np.pi
                assert value == pytest.approx(plain, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(STATES)
def test_is_a_distance(states):
    u, v, w, _ = states
    assert 0.0 <= distance(u, v) <= 1.0
    assert distance(u, v) == pytest.approx(distance(v, u), abs=1e-9)
    assert distance(u, w) <= distance(u, v) + distance(v, w) + 1e-7
    assert distance(u, 3.7 * v) == pytest.approx(distance(u, v), abs=1e-7)
    assert distance(u, u) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [3, 576, 8192])
def test_equal_vectors_are_exactly_zero_apart_and_opposite_ones_one(dtype, width):
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = angular_distances(torch.stack([vector, vector, -vector, vector]))
    assert got[0] == 0.0
    assert got[1].item() == pytest.approx(1.0, abs=1e-7)
    assert got.isfinite().all()


def test_small_angles_survive():
    angle = 1e-4  # in fp32 arithmetic arccos loses two of its digits here
    u = np.array([1.0, 0.0, 0.0])
    v = np.array([np.cos(angle), np.sin(angle), 0.0])
    assert distance(u, v) == pytest.approx(angle / np.pi, rel=1e-6)


def test_mean_over_tokens_weighs_samples_by_their_tokens_and_merges():
    generator = np.random.default_rng(3)
    samples = [generator.uniform(size=(count, 2)) for count in (1, 5, 30)]
    totals = np.array([s.sum(0) for s in samples])
    weights = np.array([len(s) for s in samples], dtype=float)
    whole, left, right = MeanSums(2), MeanSums(2), MeanSums(2)
    whole.add(totals, weights)
    left.add(totals[:1], weights[:1])
    right.add(totals[1:], weights[1:])
    left.merge(right)
    assert whole.mean() == pytest.approx(np.concatenate(samples).mean(0), abs=1e-12)
    residual = totals - whole.mean() * weights[:, None]
    assert whole.stderr() == pytest.approx(np.sqrt(1.5 * (residual**2).sum(0)) / 36, abs=1e-12)
    assert left.mean() == pytest.approx(whole.mean(), abs=1e-14)
    assert left.stderr() == pytest.approx(whole.stderr(), abs=1e-12)


def test_best_start_keeps_the_last_layer_and_takes_the_first_of_equals():
    row = [0.5, 0.2, 0.2, 0.1]  # 5 layers, blocks of 2: start 3 would drop the last layer
    assert best_start(row, 5, 2) == 1
    assert deepest_start(30, 6) == 23  # drops 23 .. 28, keeps 29
    assert lowest_influence([0.3, 0.1, 0.2, 0.1, 0.0], 2) == [1, 3]
    assert lowest_influence([0.3, 0.1, 0.2, 0.1, 0.0], 2, allow_last=True) == [1, 4]


@pytest.mark.parametrize("n", [0, -1, 5, 6])
def test_a_block_that_does_not_fit_is_wrong_usage(n):
    for choose in (
        lambda: best_start([0.1] * 9, 5, n),
        lambda: deepest_start(5, n),
        lambda: lowest_influence([0.1] * 5, n),
    ):
        with pytest.raises(UsageError, match="does not fit"):
            choose()
