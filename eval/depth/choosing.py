"""Which blocks are worth writing answers for: those that tell the domains apart most. Arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from eval.depth.contrasting.interaction import DESTROYED
from eval.depth.document import WrittenVariant
from eval.depth.measures import Floats, TaskMeasures
from eval.depth.plan import middle
from eval.sweeps.plan import SweepPlan

_BY = ("writing", "fast", "using", "control")  # the measure that tells domains apart: the first that all have


def choose_written(plan: SweepPlan, tasks: Sequence[TaskMeasures], count: int) -> tuple[WrittenVariant, ...]:
    """The variants whose answers are written: the full model, `count` blocks by contrast, the deepest of each size.

    The contrast of a block is the largest difference between two domains of its cost, each as a share of the cost of
    the domain's median block of that size. Half of the blocks come from the upper half of the layers and half from the
    lower, as far as there are some. Blocks that cost every domain over ten times its median block are passed over. Of
    one domain there is no contrast, and so no block but the deepest ones.
    """
    if not count:
        return ()
    blocks = [variant for variant in plan.variants if variant.start is not None]
    depths = np.array([middle(v.start or 0, v.n, plan.layers) for v in blocks])
    costs = _domain_costs(tasks)
    contrast = _contrasts(np.array([v.n for v in blocks]), costs)
    ranked = [int(i) for i in np.argsort(-contrast, kind="stable") if contrast[i] >= 0 and len(costs) > 1]
    deep, shallow = ([i for i in ranked if (depths[i] > 0.5) == upper] for upper in (True, False))
    half = max(count - len(shallow), (count + 1) // 2)
    chosen = [*deep[:half], *shallow[: count - min(half, len(deep))]]
    picked = {
        blocks[i].label: WrittenVariant(variant=blocks[i].label, why="contrast", contrast=float(contrast[i]))
        for i in chosen
    }
    for size in plan.sizes[1:]:
        last = max((v for v in blocks if v.n == size), key=lambda v: v.start or 0)
        picked.setdefault(last.label, WrittenVariant(variant=last.label, why="deepest", contrast=None))
    return (WrittenVariant(variant="full", why="full model", contrast=None), *picked.values())


def _contrasts(sizes: np.ndarray, costs: Mapping[str, Floats]) -> Floats:
    """(blocks,); -1 for a block that destroys the model."""
    contrast, least = np.zeros(len(sizes)), np.full(len(sizes), np.inf)
    shares = []
    for mean in costs.values():
        share = np.zeros(len(sizes))
        for size in np.unique(sizes):
            of_size = sizes == size
            usual = float(np.median(mean[of_size]))
            share[of_size] = mean[of_size] / usual if usual > 0 else 0.0
        shares.append(share)
        least = np.minimum(least, share)
    for first, second in combinations(shares, 2):
        contrast = np.maximum(contrast, np.abs(first - second))
    gone = least > DESTROYED
    return contrast if gone.all() else np.where(gone, -1.0, contrast)


def _domain_costs(tasks: Sequence[TaskMeasures]) -> Mapping[str, Floats]:
    """Mean cost of each block by domain, (blocks,), over the questions of all its protocols."""
    domains: dict[str, list[TaskMeasures]] = {}
    for task in tasks:
        domains.setdefault(task.task.plan.domain, []).append(task)

    def has(measure: str) -> bool:
        return all(any(task.there(measure).any() for task in some) for some in domains.values())

    measure = next((name for name in _BY if has(name)), None)
    if measure is None:
        return {}
    return {
        domain: np.concatenate(
            [task.costs(measure)[:, task.there(measure)] for task in some if measure in task.values], 1
        ).mean(1)
        for domain, some in domains.items()
    }
