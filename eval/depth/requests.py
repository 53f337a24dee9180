"""What is read of each question: the answer alone, the answer after a worked solution, and solutions themselves.

The answer at once (`fast`) is asked in the very words of `evaluate sweep`. The three others have one frame for all
domains and protocols, without worked examples:

    Question: <question>
    Solution: <rationale>
    Answer: <answer>

Where the chat template is on, the solution and the answer are the assistant's turn. The question is read once for
all of them, and the rationale once for being written and for being used (`eval.asking.trees`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eval.asking.harness import Scorer
from eval.depth.plan import DepthTask
from eval.questions.schema import Question
from eval.sweeps.lookup import AnswerTask, Collected, Pair, Prompting, encode, requests_of

_SOLUTION, _ANSWER = "Solution:", "Answer:"


@dataclass(frozen=True)
class DepthRequests:
    """The requests of some tasks, and which of them is which.

    Attributes:
        collected: all of them, in tokens.
        numbers: task by task, measure -> the number of each question's request, (n,); -1 for none.
    """

    collected: Collected
    numbers: tuple[dict[str, np.ndarray], ...]


def collect_requests(
    tasks: Sequence[DepthTask], measures: Sequence[str], scorer: Scorer, prompting: Prompting
) -> DepthRequests:
    """All requests of some measures (`eval.depth.settings.MEASURES`); `scorer` as of `eval.sweeps.lookup.collector`."""
    places: dict[Pair, int] = {}
    owned: list[dict[str, list[int]]] = []
    for task in tasks:
        of_task: dict[str, list[int]] = {measure: [-1] * task.n for measure in measures}
        for measure, number, pair in _pairs(task, measures, scorer, prompting):
            of_task[measure][number] = places.setdefault(pair, len(places))
        owned.append(of_task)
    collected = encode(places, scorer)
    owners = np.array([*collected.owners, -1])  # the last stands for no request
    numbers = [{measure: owners[np.array(found)] for measure, found in of_task.items()} for of_task in owned]
    return DepthRequests(collected, tuple(numbers))


def _pairs(
    task: DepthTask, measures: Sequence[str], scorer: Scorer, prompting: Prompting
) -> Iterator[tuple[str, int, Pair]]:
    """Measure, number of the question, context and continuation."""
    if "fast" in measures:
        places = {question.id: number for number, question in enumerate(task.plan.questions)}
        for request in requests_of(AnswerTask(task.plan), scorer, prompting):
            if task.plan.protocol == "generation" or request.idx == request.doc["answer"]:  # the right choice alone
                yield "fast", places[request.doc["id"]], request.args
    for number, question in enumerate(task.plan.questions):
        if not task.lengths[number]:
            continue
        opening = _context(question, _SOLUTION, scorer, prompting)
        if "writing" in measures:
            yield "writing", number, (opening, f" {question.rationale}")
        if "using" in measures:
            solved = f"{_SOLUTION} {question.rationale}\n{_ANSWER}"
            yield "using", number, (_context(question, solved, scorer, prompting), f" {question.right_answer}")
        partner = int(task.partners[number])
        if "control" in measures and partner >= 0:
            yield "control", number, (opening, f" {task.plan.questions[partner].rationale}")


def _context(question: Question, said: str, scorer: Scorer, prompting: Prompting) -> str:
    asked = f"Question: {question.question}"
    if not prompting.chat:
        return f"{asked}\n{said}"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return str(scorer.apply_chat_template(turns, add_generation_prompt=False))
