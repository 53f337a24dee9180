"""Which blocks are taken out, and which questions are asked: those with a worked solution first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eval.asking.tasks import TaskPlan, plan_tasks
from eval.depth.pairing import pair_rationales
from eval.depth.settings import EVERY, DepthSettings
from eval.questions.schema import cluster_of, draw
from eval.sweeps.plan import FULL, SweepPlan, block, parse_sizes
from prune.common.errors import RegrowthError
from prune.common.layers import starts


@dataclass(frozen=True)
class DepthTask:
    """The questions of one domain and protocol.

    Attributes:
        plan: the questions that are asked, n of them.
        lengths: tokens of each one's rationale, (n,); 0 where it has none, or none that is used.
        partners: the question whose rationale is put beside each one as a control, (n,); -1 for none.
        rationales: questions of the domain and protocol that have a rationale, asked or not.
        too_long: of these, how many have one that is too long to be used.
    """

    plan: TaskPlan
    lengths: np.ndarray
    partners: np.ndarray
    rationales: int
    too_long: int

    @property
    def n(self) -> int:
        """How many questions."""
        return len(self.plan.questions)


def plan_blocks(layers: int, *, sizes: str, spread: str) -> SweepPlan:
    """The full model, and blocks of each size at every start, or at so many starts: the lowest and the deepest are
    among them; of one alone, it is the middle. The last layer is always kept.

    Raises:
        UsageError: sizes that the model does not have.
    """
    asked = parse_sizes(sizes, layers, example="1,2,4")
    variants = [FULL]
    for n in asked:
        allowed = list(starts(layers, n))
        if spread != EVERY:
            count, last = min(int(spread), len(allowed)), len(allowed) - 1
            places = np.linspace(0, last, num=count) if count > 1 else np.array([last / 2])
            allowed = [allowed[place] for place in np.unique(np.round(places).astype(int))]
        variants += [block(n, start) for start in allowed]
    return SweepPlan(layers, (0, *asked), spread if spread == EVERY else f"{spread} of each size", tuple(variants))


def middle(start: int, n: int, layers: int) -> float:
    """The middle of a block as a share of the layers, inside (0, 1)."""
    return (start + n / 2) / layers


def read_pool(settings: DepthSettings) -> list[TaskPlan]:
    """All questions that may be asked, task by task; errors as of `plan_tasks`.

    Raises:
        RegrowthError: measures that need a rationale alone, and no question that has one.
    """
    asked = settings.in_words if settings.generate or settings.similarity else replace(settings, limit=None)
    pool = [plan for plan in plan_tasks(asked) if plan.thinking is None]
    if "fast" not in settings.measures and not any(q.rationale for plan in pool for q in plan.questions):
        raise RegrowthError(
            f"--measures {','.join(settings.measures)} need worked solutions, and no question of "
            f"{','.join(settings.domains)} in {settings.data} has a `rationale`; prepare sets that have them (GSM8K, "
            "MedMCQA, PubMedQA, MathQA), or measure fast"
        )
    return pool


def draw_tasks(pool: Sequence[TaskPlan], settings: DepthSettings, tokenizer: Any) -> list[DepthTask]:
    """The questions that are asked: `limit` of each domain and protocol, those with a usable rationale first.

    So all measures are of the same questions as far as these go. Without measures that need a rationale it is the
    draw of all other commands.

    Raises:
        RegrowthError: one question alone, or several on one passage, which is too little for an interval; or only
            measures that need a rationale, and none that is short enough.
    """
    tasks = [_draw(plan, settings, tokenizer) for plan in pool]
    if "fast" not in settings.measures and not any(task.lengths.any() for task in tasks):
        raise RegrowthError(
            f"no rationale has {settings.max_rationale_tokens} tokens at most; give a larger --max-rationale-tokens"
        )
    return tasks


def _draw(plan: TaskPlan, settings: DepthSettings, tokenizer: Any) -> DepthTask:
    having = [question for question in plan.questions if question.rationale] if settings.chain_measures else []
    texts = [question.rationale for question in having]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    lengths = {question.id: len(tokens) for question, tokens in zip(having, ids, strict=True)}
    usable = [question for question in having if lengths[question.id] <= settings.max_rationale_tokens]
    drawn = draw(usable, limit=settings.limit, seed=settings.seed)
    room = None if settings.limit is None else settings.limit - len(drawn)
    chosen = {question.id for question in usable}
    drawn += draw((q for q in plan.questions if q.id not in chosen), limit=room, seed=settings.seed)
    if len({cluster_of(question) for question in drawn}) < 2:
        raise RegrowthError(
            f"domain {plan.domain}: one {plan.protocol} question (or several on one passage) is too little: "
            "an interval needs two"
        )
    used = [lengths[q.id] if q.id in chosen else 0 for q in drawn]
    return DepthTask(
        plan=replace(plan, questions=tuple(drawn)),
        lengths=np.array(used, dtype=np.int64),
        partners=pair_rationales(drawn, used, settings.seed),
        rationales=len(having),
        too_long=len(having) - len(usable),
    )
