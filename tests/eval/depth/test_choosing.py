"""Which blocks write answers: the order by contrast, both halves of the layers, and what is passed over."""

from types import SimpleNamespace

import numpy as np

from eval.depth.choosing import choose_written
from eval.depth.measures import TaskMeasures
from eval.depth.plan import plan_blocks

PLAN = plan_blocks(10, sizes="1", spread="every")  # 1@0 .. 1@8


def costs_of(domain, costs):
    """Two questions that lose so many bits without each block."""
    values = np.repeat([[0.0], *([cost] for cost in costs)], 2, axis=1)
    return TaskMeasures(SimpleNamespace(plan=SimpleNamespace(domain=domain), n=2), {"fast": values})


def chosen(count, *tasks):
    return {row.variant: (row.why, row.contrast) for row in choose_written(PLAN, tasks, count)}


MATH = costs_of("math", [90, 1, 3, 1, 1, 1, 1, 2, 1])
MEDICAL = costs_of("medical", [20, 1, 1, 1, 1.5, 1, 1, 1, 1])


def test_blocks_that_tell_domains_apart_are_chosen_from_both_halves():
    assert chosen(2, MATH, MEDICAL) == {
        "full": ("full model", None),
        "1@7": ("contrast", 1.0),
        "1@2": ("contrast", 2.0),  # 1@0 destroys the model
        "1@8": ("deepest", None),
    }
    assert [label for label, (why, _) in chosen(3, MATH, MEDICAL).items() if why == "contrast"][2] == "1@2"
    assert chosen(0, MATH, MEDICAL) == {}


def test_of_one_domain_there_is_no_contrast():
    assert chosen(2, MATH) == {"full": ("full model", None), "1@8": ("deepest", None)}
