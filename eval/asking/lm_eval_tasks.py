"""Tasks and groups of lm-eval that the user names: loaded, and their scores per question picked from its log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eval.settings import Settings
from prune.common.errors import RegrowthError, UsageError, first_line
from prune.common.files.provenance import digest

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class LoggedAnswer:
    """One question of a task of lm-eval, under one of the task's filters; `scores` by metric, plain numbers only."""

    task: str
    filter: str
    doc_id: int
    prompt_hash: str
    target: str
    response: str
    scores: dict[str, float]


def task_manager(settings: Settings) -> TaskManager:
    """lm-eval's index of tasks; the user's folder alone where it holds all that is named (the whole takes seconds)."""
    from lm_eval.tasks import TaskManager

    folder = settings.include_path
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--include-path {folder} is not a folder")
    users = TaskManager(include_path=None if folder is None else str(folder), include_defaults=False)
    if set(settings.tasks) <= set(users.all_tasks):
        return users
    return TaskManager(include_path=None if folder is None else str(folder))


def load_logged(settings: Settings, manager: TaskManager) -> list[Any]:
    """The tasks and groups as objects, with their data."""
    tasks: list[Any] = []
    for name in settings.tasks:
        if name not in manager.all_tasks:
            raise UsageError(f"--tasks {name} is no task or group of lm-eval; `lm-eval ls tasks` lists them")
        try:
            loaded = manager.load([name])
        except Exception as error:  # lm-eval and datasets raise whatever their loaders raise
            raise RegrowthError(f"--tasks {name}: lm-eval cannot load it ({first_line(error)})") from error
        tasks += [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())
    return tasks


def pick_logged(logged: dict[str, list[dict[str, Any]]], ours: Iterable[str]) -> tuple[LoggedAnswer, ...]:
    """What lm-eval logged of all tasks but our `ours`, one entry per question and filter."""
    ours = set(ours)
    return tuple(
        LoggedAnswer(
            task=task,
            filter=entry["filter"],
            doc_id=int(entry["doc_id"]),
            prompt_hash=digest([entry["arguments"]]),
            target=str(entry["target"]),
            response=str(entry["filtered_resps"][0]),
            scores={name: float(entry[name]) for name in entry["metrics"] if is_plain(entry[name])},
        )
        for task, entries in logged.items()
        if task not in ours
        for entry in entries
    )


def is_plain(value: Any) -> bool:
    """Whether a score is a plain finite number, or true or false."""
    return isinstance(value, bool | int | float) and math.isfinite(value)


def leaves(groups: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The tasks below a group; the name itself where it is a task."""
    return [leaf for part in groups[name] for leaf in leaves(groups, part)] if groups.get(name) else [name]
