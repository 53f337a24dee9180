"""Numbers as people read them."""

import pytest

from prune.choosing.heads import Estimate
from prune.common.screen.numbers import bracketed, plain, signed
from prune.instruments.concepts.showing import _points
from prune.instruments.showing import _estimate


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (plain(-0.004, 2), "0.00"),
        (plain(-1.5, 1), "−1.5"),
        (signed(-0.0004, 3), "+0.000"),
        (signed(0.456, 2), "+0.46"),
        (bracketed(-1.234, -0.001, 2), "[−1.23, +0.00]"),
        (bracketed(0.5, 1.0, 1, ""), "[0.5, 1.0]"),
        (_estimate(Estimate(estimate=-0.001, low=-0.5, high=0.25)), "+0.00 [−0.50, +0.25]"),
        (_points(Estimate(estimate=-0.12, low=-0.3, high=-0.001)), "−12 [−30, +0]"),
    ],
)
def test_minus_signs_are_true_and_zero_has_none(found, wanted):
    assert found == wanted
