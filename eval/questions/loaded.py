"""What a question set gave: its questions, where they are from, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256

from eval.questions.schema import Question, question_id

LICENCES = {
    "mmlu": "MIT",
    "medqa": "MIT",
    "medmcqa": "Apache-2.0",
    "pubmedqa": "MIT",
    "asdiv": "CC BY-NC 4.0",
    "svamp": "MIT",
    "gsm8k": "MIT",
    "mathqa": "Apache-2.0",
    "arc": "CC BY-SA 4.0",
    "arc_easy": "CC BY-SA 4.0",
    "openbookqa": "Apache-2.0",
    "piqa": "AFL-3.0",
    "commonsenseqa": "MIT",
    "hellaswag": "MIT",
    "boolq": "CC BY-SA 3.0",
}


@dataclass
class Loaded:
    """What one set gave: questions (their domain still open), where from, and what was left out and why.

    `as_published`: they are shown and not asked, so that an option may be there twice.
    """

    name: str
    questions: list[Question] = field(default_factory=list)
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    origin: dict[str, str] = field(default_factory=dict)  # file or hub id -> sha256 or commit
    passed_over: list[str] = field(default_factory=list)  # files of the set's other splits
    examples: list[Question] = field(default_factory=list)  # that its publishers give for few-shot prompts, in order
    as_published: bool = False

    def take(
        self,
        subject: str,
        question: str,
        choices: list[str] | None,
        answer: int | str | None,
        *,
        why: str = "",
        rationale: str | None = None,
    ) -> None:
        """Add one row, or count it as left out: `why` or an answer of None says so."""
        self.rows += 1
        question = question.strip()
        if not why and not question:
            why = "no question"
        asked = choices is not None and not self.as_published
        if not why and choices is not None and asked and len({" ".join(c.split()) for c in choices}) < len(choices):
            why = "two options are the same"
        if not why and choices is not None and asked and not all(c.strip() for c in choices):
            why = "an option is empty"
        if why or answer is None:
            self.left_out[why or "no answer"] += 1
            return
        kept = None if choices is None else tuple(choices)
        name = question_id(question, kept, answer)
        self.questions.append(
            Question(
                name, "", subject, question, kept, answer, self.name, LICENCES[self.name], rationale=rationale or None
            )
        )

    def add(self, other: Loaded) -> None:
        """Take in what another place gave of the same set; repeats are dropped when domains are made."""
        self.questions += other.questions
        self.rows += other.rows
        self.left_out += other.left_out
        self.origin |= other.origin
        self.passed_over += other.passed_over
        self.examples += other.examples

    def show(self, other: Loaded) -> None:
        """Take the questions of another split as the examples of this one."""
        self.examples += other.questions
        self.origin |= other.origin


def drop_wrong_options(questions: Iterable[Question], *, keep: int, seed: int) -> list[Question]:
    """Each question with `keep` of its options: wrong ones are removed at random, by the seed and its id alone.

    The fast/slow study brings MathQA from five options to four so, the number that its other sets have.
    """
    reduced = []
    for item in questions:
        choices, answer = item.choices, item.answer
        if choices is None or len(choices) <= keep or not isinstance(answer, int):
            reduced.append(item)
            continue
        wrong = [index for index in range(len(choices)) if index != answer]
        rank = {index: sha256(f"{seed}:{item.id}:{index}".encode()).digest() for index in wrong}
        wrong.sort(key=rank.__getitem__)
        kept = sorted([answer, *wrong[: keep - 1]])
        texts = tuple(choices[index] for index in kept)
        right = kept.index(answer)
        reduced.append(replace(item, id=question_id(item.question, texts, right), choices=texts, answer=right))
    return reduced
