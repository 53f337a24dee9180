"""Samples of a task of lm-eval as questions and verdicts: what was picked, or written, and how likely the key was."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.foreign.folder import hashes, requests
from eval.questions.schema import Question
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.provenance import digest
from prune.writing.words import LETTERS

Row = Mapping[str, Any]
_EXACT = ("exact_match", "acc", "em", "math_verify", "mc_accuracy")  # metrics of 0 and 1, the first that is there
_ASKS = ("question", "query", "ctx", "goal", "sentence", "problem", "input", "sent1", "text")  # fields of documents
_PASSAGES = ("passage", "context", "article", "story", "contexts")
_UNREAD = "[invalid]"  # what lm-eval's filters say where they find nothing
_TAIL = 700  # characters of a prompt, where a document has no question of its own


@dataclass(frozen=True)
class Answer:
    """One question of a task, and what a model answered; as in `eval.runs.samples.Sample`."""

    question: Question
    correct: bool
    correct_raw: bool
    answer_nll_bits: float | None
    parsed: bool
    response: str | int
    prompt_hash: str


@dataclass(frozen=True)
class TaskAnswers:
    """One task under one filter: its protocol (None for one that no domain can take), and why, or what else to say."""

    task: str
    protocol: str | None
    filter: str
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]


def by_filter(task: str, rows: Sequence[dict[str, Any]], scores: Row) -> dict[str, list[dict[str, Any]]]:
    """A task's samples by filter. Older versions of lm-eval do not name it, and write one filter after the other.

    Args:
        scores: the task's results, whose keys name the filters in the same order.
    """
    names = list(dict.fromkeys(key.partition(",")[2] for key in scores if "," in key))
    seen: Counter[Any] = Counter()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        number = seen[row["doc_id"]]
        seen[row["doc_id"]] += 1
        name = row.get("filter") or (names[number] if number < len(names) else "none")
        found.setdefault(str(name), []).append(row)
    sizes = {name: len(some) for name, some in found.items()}
    if len(set(sizes.values())) > 1:
        raise RegrowthError(
            f"the samples of task {task} are not as many under each filter ({sizes}); run lm-eval again"
        )
    return found


def read_task(task: str, config: Row, filters: Mapping[str, Sequence[Row]], wanted: str | None) -> TaskAnswers:
    """The answers of a task that a domain may take.

    Args:
        config: the task's configuration, as lm-eval logged it.
        filters: from `by_filter`.
        wanted: the user's filter, which counts where the task has several.

    Raises:
        UsageError: the task has several filters, and the wanted one is not among them.
        RegrowthError: a log-likelihood that is no number.
    """
    names = list(filters)
    if wanted is not None and len(names) > 1 and wanted not in names:
        raise UsageError(f"--filter {wanted}: task {task} has {', '.join(names)}")
    name = wanted if wanted in names else names[0]
    rows, kind = filters[name], config.get("output_type")
    notes = []
    if len(names) > 1 and wanted is None:
        notes.append(f"{task} is judged by its filter {name}; --filter takes {' or '.join(names[1:])} instead")
    if kind == "multiple_choice" and all(_verdict(row.get("acc")) and _verdict(row.get("acc_norm", 0)) for row in rows):
        answers = _numbered(task, rows)
        protocol = "letters" if all(_lettered(row) for row in rows) else "choice"
        picked = [_picked(task, row, question) for row, question in zip(rows, answers, strict=True)]
        if any(answer is None for answer in picked):  # its verdicts do not follow from what is taken for its key
            picked = [_picked(task, row, question, keyed=False) for row, question in zip(rows, answers, strict=True)]
            notes.append(f"{task}: its samples do not tell which choice is right, so that it has no answer NLL")
        return TaskAnswers(task, protocol, name, tuple(a for a in picked if a is not None), tuple(notes))
    metric = next((m for m in _EXACT if all(_verdict(row.get(m)) for row in rows)), None)
    if kind == "generate_until" and metric is not None:
        pairs = zip(rows, _numbered(task, rows), strict=True)
        return TaskAnswers(task, "generation", name, tuple(_written(r, q, metric) for r, q in pairs), tuple(notes))
    why = f"{task} has answers that are neither right nor wrong, and stands among lm-eval's tasks alone"
    return TaskAnswers(task, None, name, (), (why,))


def _verdict(value: Any) -> bool:
    """Whether it says right or wrong; a task may log a probability as `acc`, as truthfulqa_mc2 does."""
    return isinstance(value, bool | int | float) and value in (0, 1)


def _numbered(task: str, rows: Sequence[Row]) -> list[Question]:
    """The questions, each with an id of its document's hash, by which two runs are paired."""
    seen: Counter[str] = Counter()
    questions = []
    for row in rows:
        name = f"{task}-{hashes(row)[0][:16]}"
        seen[name] += 1
        questions.append(_question(task, row, name if seen[name] == 1 else f"{name}-{seen[name]}"))
    return questions


def _question(task: str, row: Row, name: str) -> Question:
    doc, picked = row["doc"], _choices(row)
    doc = doc if isinstance(doc, Mapping) else {}
    text = next((doc[key] for key in _ASKS if isinstance(doc.get(key), str) and doc[key].strip()), None)
    passage = next((str(doc[key]) for key in _PASSAGES if doc.get(key)), "")
    if text is None:
        text = str(requests(row)[0][0])[-_TAIL:]
    subject = doc.get("subject")
    return Question(
        id=name,
        domain="",
        subject=subject if isinstance(subject, str) else task,
        question=text if not passage or passage in text else f"{passage}\n{text}",
        choices=tuple(_shown(doc, picked)) if picked else None,
        answer=str(row["target"]),
        source=task,
        licence="",
        cluster=digest([passage])[:16] if passage else name,
    )


def _choices(row: Row) -> list[str]:
    """What a multiple-choice sample scored: the continuations, or the contexts where these differ; else []."""
    asked = requests(row)
    if "acc_mutual_info" in row:  # each choice once more, without its question
        asked = asked[: len(asked) // 2]
    if not all(len(each) == 2 and isinstance(each[1], str) for each in asked):
        return []
    several = len({each[0] for each in asked}) > 1
    return [str(each[0] if several else each[1]).strip() for each in asked]


def _lettered(row: Row) -> bool:
    """Whether the choices are A, B, C, ..."""
    choices = _choices(row)
    return choices == list(LETTERS[: len(choices)])


def _shown(doc: Row, picked: Sequence[str]) -> Sequence[str]:
    """The choices' texts: what was scored, or behind letters what the document has."""
    if list(picked) != list(LETTERS[: len(picked)]):
        return picked
    for given in (doc.get("choices"), doc.get("options"), [doc.get(f"op{letter}") for letter in "abcd"]):
        texts = given.get("text") if isinstance(given, Mapping) else given
        texts = list(given.values()) if texts is None and isinstance(given, Mapping) else texts
        if isinstance(texts, list) and len(texts) == len(picked) and all(isinstance(text, str) for text in texts):
            return texts
    return picked


def _key(row: Row, choices: Sequence[str]) -> int | None:
    """The 0-based index of the right choice; None where the target does not tell it."""
    target = str(row["target"]).strip()
    if re.fullmatch(r"\d+", target) and int(target) < len(choices):
        return int(target)
    return choices.index(target) if choices.count(target) == 1 else None


def _picked(task: str, row: Row, question: Question, *, keyed: bool = True) -> Answer | None:
    """The verdict on one question with choices; None where it is not that of the key, if it is to be `keyed`."""
    choices = _choices(row)
    scores = [float(given[0]) for given in row["filtered_resps"][: len(choices)]]
    if not all(map(math.isfinite, scores)):
        raise RegrowthError(f"task {task}: a log-likelihood of question {row['doc_id']} is no finite number")
    key, first = _key(row, choices), scores.index(max(scores))
    if keyed and (key is None or (first == key) != bool(row["acc"])):
        return None
    lengths = [scores[i] / max(1, len(choices[i])) for i in range(len(choices))]
    return Answer(
        question=question if key is None or not keyed else replace(question, answer=key),
        correct=bool(row.get("acc_norm", row["acc"])),
        correct_raw=bool(row["acc"]),
        answer_nll_bits=-scores[key] / math.log(2) if keyed and key is not None else None,
        parsed=True,
        response=lengths.index(max(lengths)) if "acc_norm" in row else first,
        prompt_hash=digest(list(hashes(row))),
    )


def _written(row: Row, question: Question, metric: str) -> Answer:
    given = row["filtered_resps"][0]
    text = str(given[0] if isinstance(given, list) and given else given)
    right = bool(row[metric])
    return Answer(question, right, right, None, text != _UNREAD, text, digest(list(hashes(row))))
