"""Answers of a walk are read in one go, and whether a token is the likeliest is told alike on every device."""

import numpy as np
import torch

from eval.asking.walk import likeliest


def test_the_likeliest_token_is_the_same_with_and_without_asking_the_device():
    draw = np.random.default_rng(0)
    chances = torch.from_numpy(draw.integers(0, 4, (40, 12)).astype(np.float32)).log_softmax(-1)  # many are equal
    at, target = torch.from_numpy(draw.integers(0, 40, 500)), torch.from_numpy(draw.integers(0, 12, 500))
    logprobs = chances[at, target]
    asking, not_asking = (likeliest(chances, at, target, logprobs, asks=asks) for asks in (True, False))
    assert torch.equal(asking, not_asking)
    assert 0 < asking.sum() < (logprobs == chances.amax(-1)[at]).sum()  # of equal ones only the first
