"""From a token budget to steps."""

import pytest

from heal.defaults import Step
from heal.training.schedule import plan_steps
from prune.common.errors import UsageError

STEP = Step(length=64, batch_size=2, accumulate=3, learning_rate=1e-3)


def test_a_budget_is_spent_in_whole_steps():
    schedule = plan_steps(10_000, STEP, processes=2)
    assert (schedule.rows_per_step, schedule.tokens_per_step, schedule.steps) == (12, 768, 13)
    assert schedule.rows == 156
    assert schedule.tokens == 9984 <= 10_000
    assert schedule.to_json() == {
        "length": 64, "batch_size": 2, "accumulate": 3, "steps": 13, "warmup": 1, "processes": 2,
        "tokens_per_step": 768, "tokens": 9984,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "option"), [("length", "--length"), ("batch_size", "--batch-size"), ("accumulate", "--accumulate")]
)
def test_a_size_of_zero_is_refused(field, option):
    with pytest.raises(UsageError, match=f"{option} 0 is too small"):
        plan_steps(10_000, Step(**{"length": 64, "batch_size": 2, "accumulate": 3, "learning_rate": 1e-3, field: 0}))


def test_a_budget_below_one_step_is_refused():
    with pytest.raises(UsageError, match=r"--tokens 383 is less than one step of 6 rows of 64 tokens \(384\)"):
        plan_steps(383, STEP)


@pytest.mark.parametrize(
    ("written", "steps", "warmup"),
    [(None, 1, 0), (None, 10, 1), (None, 200, 6), (None, 5000, 100), ("3%", 200, 6), ("7", 8, 7)],
)
def test_the_warm_up(written, steps, warmup):
    assert plan_steps(384 * steps, STEP, warmup=written).warmup == warmup


@pytest.mark.parametrize("written", ["8", "100%", "2.5", "-1", "some"])
def test_a_warm_up_that_is_no_part_of_the_steps_is_refused(written):
    with pytest.raises(UsageError, match=f"--warmup {written} is not a number of steps below all 8"):
        plan_steps(384 * 8, STEP, warmup=written)
