"""What the contrasts of depth are asked of: pairs of domains, pairs of measures, and growing cuts at the deepest place.

Arithmetic on what `eval.depth.measures` and the written answers hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from eval.billing.rows.thinking import thinking_pairs
from eval.depth.contrasting.asymmetry import Answers, Asymmetry, order_of_events
from eval.depth.contrasting.interaction import DomainCosts, depth_interaction, measure_interaction
from eval.depth.document import DomainInteraction, MeasureInteraction
from eval.depth.measures import TaskMeasures
from eval.depth.plan import middle
from eval.runs.samples import RunResult
from eval.sweeps.plan import SweepPlan

# Domains by what thinking added to them over 15 models (arXiv 2507.18178); those above need more reasoning.
BY_GAIN = (
    "math",
    "mathematics",
    "physics",
    "chemistry",
    "computer-science",
    "economics-business",
    "philosophy",
    "geography-astronomy",
    "medical",
    "biology-medicine",
    "psychology-sociology",
    "engineering",
    "law",
    "history",
    "politics",
)
_MOST_PAIRED = 4  # domains of which every pair is compared; of more the first is compared with each
_OF_TEXT = ("writing", "control", "informed")  # measures of rationales, whose question's protocol does not matter
_BOTH = "both"
RECALL = (("writing", "fast"), ("using", "fast"))  # measures that are compared on the same questions


def domain_interactions(
    plan: SweepPlan, tasks: Sequence[TaskMeasures], measures: Sequence[str], *, seed: int
) -> tuple[DomainInteraction, ...]:
    """For each size, measure and pair of domains: do deep blocks cost the first more, and shallow ones the second?

    Of a pair the first is the domain to which thinking adds more (`BY_GAIN`). Answers are compared within a protocol
    that both domains have, and over all protocols where they share none.
    """
    return tuple(
        DomainInteraction(
            size=size,
            measure=measure,
            protocol=protocol,
            domains=(first, second),
            found=depth_interaction(
                _costs(first, one, measure, picked), _costs(second, other, measure, picked), depths, seed=seed
            ),
        )
        for size, picked, depths in _blocks(plan)
        for measure in measures
        for first, second in _pairs(tasks)
        for protocol, one, other in _sides(tasks, measure, first, second)
    )


def measure_interactions(
    plan: SweepPlan, tasks: Sequence[TaskMeasures], measures: Sequence[str], *, seed: int
) -> tuple[MeasureInteraction, ...]:
    """For each size and task: do deep blocks cost the chain, written or used, more than recall?"""
    found = []
    for size, picked, depths in _blocks(plan):
        for task in tasks:
            for chain, recall in RECALL:
                if not {chain, recall} <= set(measures) or not task.measured(chain) or not task.measured(recall):
                    continue
                there = task.there(chain) & task.there(recall)
                clusters = _clusters([task], there)
                sides = [DomainCosts(name, task.costs(name)[picked][:, there], clusters) for name in (chain, recall)]
                found.append(
                    MeasureInteraction(
                        size=size,
                        domain=task.task.plan.domain,
                        protocol=task.task.plan.protocol,
                        measures=(chain, recall),
                        found=measure_interaction(sides[0], sides[1], depths, seed=seed),
                    )
                )
    return tuple(found)


def events(plan: SweepPlan, runs: Sequence[RunResult], *, seed: int) -> tuple[Asymmetry, ...]:
    """What goes first as the deepest block grows, task by task; () without written answers."""
    by_label = {run.label: run for run in runs}
    sizes, cuts = [0], ["full"]
    for size in sorted(plan.sizes[1:]):
        deepest = max((v for v in plan.variants if v.n == size), key=lambda v: v.start or 0)
        if deepest.label in by_label:
            sizes.append(size)
            cuts.append(deepest.label)
    if len(sizes) < 2:
        return ()
    return tuple(
        order_of_events(
            sizes,
            Answers(
                name=f"{fast.domain} {fast.protocol}",
                fast_right=np.array([[s.correct for s in by_label[cut].of(fast)] for cut in cuts]),
                slow_right=np.array([[s.correct for s in by_label[cut].of(slow)] for cut in cuts]),
                clusters=np.unique([s.unit for s in by_label["full"].of(fast)], return_inverse=True)[1],
            ),
            seed=seed,
        )
        for fast, slow in thinking_pairs(runs[0].tasks)
    )


def _blocks(plan: SweepPlan) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each size, its blocks by their numbers among all blocks, and the depths of their middles."""
    blocks = [variant for variant in plan.variants if variant.start is not None]
    for size in plan.sizes[1:]:
        picked = np.array([number for number, variant in enumerate(blocks) if variant.n == size])
        yield size, picked, np.array([middle(blocks[i].start or 0, size, plan.layers) for i in picked])


def _pairs(tasks: Sequence[TaskMeasures]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(task.task.plan.domain for task in tasks))
    pairs = [pair for pair in combinations(names, 2) if len(names) <= _MOST_PAIRED or pair[0] == names[0]]
    return [(first, second) if _gain(first) <= _gain(second) else (second, first) for first, second in pairs]


def _gain(domain: str) -> int:
    return BY_GAIN.index(domain) if domain in BY_GAIN else len(BY_GAIN)


_Tasks = list[TaskMeasures]


def _sides(tasks: Sequence[TaskMeasures], measure: str, first: str, second: str) -> list[tuple[str, _Tasks, _Tasks]]:
    """Protocol, and the tasks of both domains that are compared; [] where one of them has none."""
    one, other = ([t for t in tasks if t.task.plan.domain == name and t.measured(measure)] for name in (first, second))
    if not one or not other:
        return []
    by_protocol = [
        (t.task.plan.protocol, t, u) for t in one for u in other if t.task.plan.protocol == u.task.plan.protocol
    ]
    if measure in _OF_TEXT or not by_protocol:
        return [(_BOTH, one, other)]
    return [(protocol, [t], [u]) for protocol, t, u in by_protocol]


def _costs(name: str, tasks: Sequence[TaskMeasures], measure: str, picked: np.ndarray) -> DomainCosts:
    costs = np.concatenate([task.costs(measure)[picked][:, task.there(measure)] for task in tasks], axis=1)
    return DomainCosts(name, costs, _clusters(tasks, *(task.there(measure) for task in tasks)))


def _clusters(tasks: Sequence[TaskMeasures], *there: np.ndarray) -> np.ndarray:
    """Numbers of the passages of the questions that are there, task after task."""
    units = [
        unit
        for task, here in zip(tasks, there, strict=True)
        for unit, is_here in zip(task.units, here, strict=True)
        if is_here
    ]
    return np.unique(units, return_inverse=True)[1].astype(np.int64)
