"""The course of a run."""

from heal.models.held_out import Losses
from heal.training.curve import Curve


def course(*losses):
    """Two steps before each measurement but the first."""
    curve = Curve()
    for number, loss in enumerate(losses):
        for step in range(2 if number else 0):
            curve.add_step(4.0 - step, 0.5, loss_tokens=10, first=number == 1 and step == 0)
        curve.add(2 * number, 100 * number, Losses(loss, {}))
    return curve


def test_a_point_has_the_mean_of_the_steps_before_it():
    curve = course(3.0, 2.5)
    assert [point.loss for point in curve.points] == [None, 3.5]
    assert curve.since == []
    assert curve.loss_tokens == 20


def test_the_best_point_is_the_first_of_the_least():
    curve = course(3.0, 2.5, 2.5, 2.75)
    assert curve.best.step == 2
    assert curve.stale() == 2


def test_a_run_is_sane_while_it_is_no_worse_than_before():
    curve = course(3.0, 2.5, 3.5)
    assert curve.sane(0)
    assert curve.sane(3)
    assert not curve.sane(4)


def test_the_speed_leaves_out_the_first_step():
    curve = course(3.0, 2.5, 2.5)
    assert (curve.steady_steps, curve.steady_seconds) == (3, 1.5)
    assert curve.steps_per_second(4) == 2.0
    alone = Curve()
    alone.add_step(1.0, 4.0, loss_tokens=1, first=True)
    assert alone.steps_per_second(1) == 0.25


def test_it_comes_back_as_it_was_kept():
    curve = course(3.0, 2.5)
    curve.add_step(1.0, 0.5, loss_tokens=7, first=False)
    assert Curve.from_json(curve.to_json()) == curve
    older = curve.to_json()
    del older["loss_tokens"]  # a run of before they were counted
    back = Curve.from_json(older)
    back.add_step(1.0, 0.5, loss_tokens=7, first=False)
    assert back.loss_tokens is None
