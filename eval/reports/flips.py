"""Questions whose verdict changed between the full model and another, read from the samples that a comparison wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.asking.tasks import TaskPlan
from prune.common.errors import CheckpointError

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Flip:
    """One question and its two answers. `before`, `after`: the index of the choice taken, or the text written."""

    question: str
    subject: str
    source: str
    choices: tuple[str, ...] | None
    answer: int | str
    before: int | str
    after: int | str


@dataclass(frozen=True)
class FlipGroup:
    """All questions of one task that one model lost or gained against the full one, in their drawn order."""

    domain: str
    protocol: str
    thinking: str | None
    model: str
    n: int
    lost: tuple[Flip, ...]
    gained: tuple[Flip, ...]


def read_flips(folder: Path, comparison: Mapping[str, Any]) -> list[FlipGroup]:
    """The flips of every task and model of a comparison; a task whose samples are not there is left out.

    The drawn order hangs on the seed alone, and so do the first of a group.

    Raises:
        CheckpointError: samples that are no JSON lines, or not of the same questions.
    """
    full, *others = [model["label"] for model in comparison["models"]]
    found = []
    for domain, protocol, mode in _tasks(comparison):
        first = _lines(folder, full, _name(domain, protocol, mode))
        for label in others:
            own = _lines(folder, label, _name(domain, protocol, mode))
            if first is None or own is None or not all("doc" in line for line in first):
                continue
            answers = {line["id"]: line for line in own}
            if len(answers) != len(first) or any(line["id"] not in answers for line in first):
                raise CheckpointError(
                    f"{folder}: the samples of {label} on {domain} are of other questions than {full}'s"
                )
            both = [(line, answers[line["id"]]) for line in first]
            lost = tuple(_flip(b, a) for b, a in both if b["correct"] and not a["correct"])
            gained = tuple(_flip(b, a) for b, a in both if a["correct"] and not b["correct"])
            found.append(FlipGroup(domain, protocol, mode, label, len(both), lost, gained))
    return found


def _tasks(comparison: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    plain = dict.fromkeys((row["domain"], row["protocol"]) for row in comparison["rows"])
    thinking = dict.fromkeys((row["domain"], row["protocol"]) for row in comparison.get("thinking") or [])
    for task in plain:
        yield *task, None
    for task in thinking:  # at once the answers are much as without; after a chain of thought they are others
        yield *task, "slow"


def _name(domain: str, protocol: str, mode: str | None) -> str:
    return TaskPlan(domain, protocol, (), mode).name


def _lines(folder: Path, label: str, task: str) -> list[Line] | None:
    path = folder / f"samples_{label}_{task}.jsonl"
    if not path.is_file():
        return None
    try:
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON lines ({error})") from error


def _flip(before: Line, after: Line) -> Flip:
    doc = before["doc"]
    return Flip(
        question=doc["question"],
        subject=doc.get("subject") or "",
        source=doc.get("source") or "",
        choices=None if doc.get("choices") is None else tuple(doc["choices"]),
        answer=doc["answer"],
        before=before["response"],
        after=after["response"],
    )
