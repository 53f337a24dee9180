"""Answers of a walk are read in one go, and whether a token is the likeliest is told alike on every device."""

import numpy as np
import torch

from eval.asking.walk import likeliest


def test_the_likeliest_token_is_the_first_of_equal_ones():
    draw = np.random.default_rng(0)
    chances = torch.from_numpy(draw.integers(0, 4, (40, 12)).astype(np.float32)).log_softmax(-1)  # many are equal
    at, target = torch.from_numpy(draw.integers(0, 40, 500)), torch.from_numpy(draw.integers(0, 12, 500))
    logprobs = chances[at, target]
    found = likeliest(chances, at, target, logprobs)
    assert torch.equal(found, chances.argmax(-1)[at] == target)  # as a GPU finds it
    assert 0 < found.sum() < (logprobs == chances.amax(-1)[at]).sum()  # of equal ones only the first
