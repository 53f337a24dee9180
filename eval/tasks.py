"""lm-eval tasks of our own: one per (domain, protocol), built from prepared questions and a protocol's YAML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from eval.domains import question_files
from eval.questions import PROTOCOLS, Question, draw, read_questions
from prune.errors import UsageError


@dataclass(frozen=True)
class TaskPlan:
    """One task: which questions of a domain are asked under which protocol."""

    domain: str
    protocol: str
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        """The task's name in lm-eval and in file names."""
        return f"regrowth_{self.domain}_{self.protocol}"

    @property
    def requests(self) -> int:
        """How many requests the model answers: one per choice, or two per open question."""
        return sum(len(item.choices or (0, 0)) for item in self.questions)

    @property
    def chance(self) -> float:
        """Mean accuracy of blind guesses."""
        return sum(item.chance for item in self.questions) / len(self.questions)

    def config(self) -> dict[str, Any]:
        """The task's lm-eval configuration: the protocol's template under this task's name."""
        return {**template(self.protocol), "task": self.name}

    def rows(self) -> list[dict[str, Any]]:
        """The documents that lm-eval asks, one per question."""
        return [item.as_row() for item in self.questions]


def template(protocol: str) -> dict[str, Any]:
    """A fresh copy of `protocols/<protocol>.yaml`: prompt, targets, metrics."""
    import yaml

    document: dict[str, Any] = yaml.safe_load(_template_text(protocol))
    return document


@cache
def _template_text(protocol: str) -> str:
    return (files("eval") / "protocols" / f"{protocol}.yaml").read_text("utf-8")


def plan_tasks(
    data: str | Path,
    domains: str | Iterable[str],
    *,
    limit: int | None = None,
    seed: int = 0,
    sets: Iterable[str] | None = None,
) -> list[TaskPlan]:
    """Read the domains' files and draw the questions: one task for each protocol that a domain has questions of.

    Args:
        data: a folder made by `evaluate prepare`, or of the user's own `<domain>.jsonl` files.
        domains: names, as a list or `medical,math`.
        limit: at most so many questions per domain and protocol; all if None.
        seed: which ones; the same for every model.
        sets: take only questions whose `source` is one of these.

    Raises:
        UsageError: an unknown domain, a bad limit, or sets that leave a domain without questions.
        RegrowthError: a missing or broken file.
    """
    if limit is not None and limit < 2:
        raise UsageError(f"--limit {limit} is too few questions; an interval needs 2 at least")
    plans = []
    wanted = None if sets is None else set(sets)
    for domain, path in question_files(data, domains).items():
        questions = read_questions(path)
        kept = [item for item in questions if wanted is None or item.source in wanted]
        if not kept:
            there = ", ".join(sorted({item.source for item in questions}))
            raise UsageError(f"--sets leaves no question in domain {domain}; its sets: {there}")
        for protocol in PROTOCOLS:
            drawn = draw((item for item in kept if item.protocol == protocol), limit=limit, seed=seed)
            if drawn:
                plans.append(TaskPlan(domain, protocol, tuple(drawn)))
    return plans
