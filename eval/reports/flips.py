"""Questions whose verdict changed between the full model and another, from the samples that a comparison wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.asking.tasks import TaskPlan
from eval.reports.model import Example, Flips
from eval.reports.wording.text import clipped
from eval.runs.files import read_lines
from prune.common.errors import CheckpointError

Line = Mapping[str, Any]
Pair = tuple[Line, Line]  # the same question, before and after

SHOWN = 4  # examples of each kind, for each task and model; fewer where they are many, so that the page stays light
_IN_ALL = 100
LONGEST = 700  # characters of an answer or question that are shown


def read_flips(folder: Path, comparison: Mapping[str, Any]) -> tuple[Flips, ...]:
    """What each task and model lost and gained, with the first of each kind in the order in which they were drawn.

    A task whose samples are not there is left out.

    Raises:
        CheckpointError: samples that are no JSON lines, lack what is shown of them, or are not of the same questions.
    """
    full, *others = [model["label"] for model in comparison["models"]]
    flipped = []
    for task, words in _tasks(comparison):
        before = _lines(folder, full, task)
        for label in others if before else ():
            pairs = _pairs(folder, before, _lines(folder, label, task), f"{label} on {words}", full)
            lost = [(b, a) for b, a in pairs if b["correct"] and not a["correct"]]
            gained = [(b, a) for b, a in pairs if a["correct"] and not b["correct"]]
            if lost or gained:
                flipped.append((f"{words}: {label}", len(pairs), lost, gained))
    shown = max(1, min(SHOWN, _IN_ALL // max(1, len(flipped))))
    return tuple(
        Flips(title, n, len(lost), len(gained), _examples(lost[:shown]), _examples(gained[:shown]))
        for title, n, lost, gained in flipped
    )


def _tasks(comparison: Mapping[str, Any]) -> Iterator[tuple[TaskPlan, str]]:
    """Each task, and what it is called. At once the answers are much as without thinking, so those are left out."""
    for rows, mode in ((comparison["rows"], None), (comparison["thinking"], "slow")):
        for domain, protocol in dict.fromkeys((row["domain"], row["protocol"]) for row in rows):
            yield TaskPlan(domain, protocol, (), mode), f"{domain} {protocol}{', slow thinking' if mode else ''}"


def _lines(folder: Path, label: str, task: TaskPlan) -> list[Line]:
    path = folder / f"samples_{label}_{task.name}.jsonl"
    if not path.is_file():
        return []
    try:
        lines = read_lines(path)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON lines ({error})") from error
    for number, line in enumerate(lines, start=1):
        if fault := _fault(line):
            raise CheckpointError(f"{path}: sample {number} is not one that a comparison wrote: {fault}")
    return list(lines)


def _fault(line: Line) -> str:
    """What keeps a line from being shown; nothing where it has all that is read here, or is of another task."""
    if "doc" not in line:
        return ""
    if missing := [name for name in ("id", "correct", "response") if name not in line]:
        return f"it has no {missing[0]}"
    doc = line["doc"]
    choices = doc.get("choices") or () if isinstance(doc, Mapping) else None
    if (
        not isinstance(choices, list | tuple)
        or not all(isinstance(text, str) for text in (doc.get("question"), *choices))
        or not all(isinstance(doc.get(name), str | None) for name in ("subject", "source"))
        or not isinstance(doc.get("answer"), int | str)
    ):
        return "its doc is no question"
    return "" if isinstance(line["id"], str) else "its id is no text"


def _pairs(folder: Path, before: Sequence[Line], after: Sequence[Line], what: str, full: str) -> list[Pair]:
    if not after or not all("doc" in line for line in (*before, *after)):
        return []
    answers = {line["id"]: line for line in after}
    if len(answers) != len(before) or any(line["id"] not in answers for line in before):
        raise CheckpointError(f"{folder}: the samples of {what} are of other questions than {full}'s")
    return [(line, answers[line["id"]]) for line in before]


def _examples(pairs: Sequence[Pair]) -> tuple[Example, ...]:
    return tuple(_example(before, after) for before, after in pairs)


def _example(before: Line, after: Line) -> Example:
    """A choice that was taken is marked where it stands; an answer that was written is shown below."""
    question = before["doc"]
    options = question.get("choices") or ()
    answers = {"right": question["answer"], "before": before["response"], "after": after["response"]}
    choices = tuple(
        (clipped(text, LONGEST), tuple(word for word, answer in answers.items() if answer == number))
        for number, text in enumerate(options)
    )
    right, was, became = (
        "" if options and isinstance(answer, int) else _written(answer) for answer in answers.values()
    )
    where = ", ".join(filter(None, (question.get("subject"), question.get("source"))))
    return Example(clipped(question["question"], LONGEST), where, choices, right, was, became)


def _written(answer: Any) -> str:
    text = str(answer).strip()
    return clipped(text, LONGEST) if text else "(nothing)"
