"""One walk through the layers: all measures of all questions, with each block taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from eval.asking.walk import RouteAnswers, Way, choose_way, score
from eval.depth.loaded import Loaded
from eval.depth.measures import TaskMeasures, task_measures
from eval.depth.plan import DepthTask
from eval.depth.requests import collect_requests
from eval.depth.settings import DepthSettings
from eval.sweeps.lookup import Collected, Prompting, collector
from eval.sweeps.plan import SweepPlan
from prune.common.files.provenance import digest
from prune.common.screen.terminal import progress

if TYPE_CHECKING:
    from eval.depth.unfinished import KeptWork


@dataclass(frozen=True)
class WalkedTasks:
    """What a walk gave: each task's measures, and how its requests were read."""

    tasks: tuple[TaskMeasures, ...]
    collected: Collected
    answers: RouteAnswers
    way: Way


def walk_tasks(
    loaded: Loaded,
    plan: SweepPlan,
    tasks: Sequence[DepthTask],
    settings: DepthSettings,
    kept: KeptWork,
    *,
    show_progress: bool = True,
) -> WalkedTasks:
    """Measure the tasks on all variants of a loaded model.

    Raises:
        RegrowthError: the layers cannot be walked, memory does not do for one question, or a score is no number.
    """
    scorer = collector(loaded.model, loaded.tokenizer, loaded.context)
    asked = collect_requests(tasks, settings.measures, scorer, Prompting(loaded.chat, settings.seed))
    requests = asked.collected.requests
    way = choose_way(loaded.model, requests)
    kept.restore(
        requests=digest([asdict(request) for request in requests]), way=asdict(way), dtype=str(loaded.model.dtype)
    )
    with progress(f"Asking {len(plan.variants)} variants", len(requests), shown=show_progress) as bar:
        if way.why:
            bar.note(f"contexts are not shared: {way.why}")

        def watch(answers: RouteAnswers, new: int) -> None:
            bar.advance(new)
            kept.keep(answers)

        answers = score(
            loaded.model,
            requests,
            plan.routes,
            way=way,
            batch_tokens=settings.batch_tokens,
            answers=kept.answers,
            watch=watch,
        )
    measured = [
        task_measures(task, numbers, answers.logprob) for task, numbers in zip(tasks, asked.numbers, strict=True)
    ]
    return WalkedTasks(tuple(measured), asked.collected, answers, way)
