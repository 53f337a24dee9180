"""Timing by a clock that stands still but where the model says how long it took."""

import functools

import pytest
import torch

from eval.gains.timing import time_generation
from tests.support.models import tiny

READING, WRITING = 0.25, 3.0  # seconds a token of a prompt, and of a pass that writes one


class FakeClock:
    """A clock that only a model moves."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


def slowed(model, clock):
    """The model, each pass of which takes a known time by the clock."""
    forward = model.forward

    @functools.wraps(forward)
    def timed(*args, **more):
        length = more["input_ids"].shape[1]
        clock.now += length * READING if length > 1 else WRITING
        return forward(*args, **more)

    model.forward = timed
    return model


def test_reading_is_the_first_pass_and_writing_all_others(clock):
    model = slowed(tiny("llama"), clock)
    timed = time_generation(model, torch.randint(3, 300, (2, 12)), 5, clock=clock)
    assert timed.prefill_seconds == 12 * READING
    assert timed.decode_seconds == 5 * WRITING
    assert timed.cache.get_seq_length() == 12 + 5


def test_an_end_that_the_model_writes_ends_nothing(clock):
    model = slowed(tiny("llama"), clock)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.generation_config.eos_token_id = list(range(299))  # nearly any token
    assert time_generation(model, torch.tensor([[5, 6]]), 4, clock=clock).decode_seconds == 4 * WRITING


def test_the_device_is_waited_for_at_every_mark(clock):
    """What a GPU still has to do when a call returns is a part of its time."""
    model = slowed(tiny("llama"), clock)
    waits = []

    def wait():
        waits.append(clock.now)
        clock.now += 7.0

    timed = time_generation(model, torch.tensor([[5, 6]]), 2, clock=clock, wait=wait)
    assert len(waits) == 3
    assert timed.prefill_seconds == 2 * READING + 7.0
    assert timed.decode_seconds == 2 * WRITING + 7.0


def test_nothing_of_it_stays_on_the_model(clock):
    model = tiny("llama")
    time_generation(model, torch.tensor([[5, 6]]), 1, clock=clock)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
