"""One schema for all question sets: one JSON object a line, read, checked, written and freed of repeats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from eval.answers.values import parse_gold
from eval.questions.declaration import read_declaration
from prune.common.errors import RegrowthError
from prune.common.files.artefact import Part, first_fault

_PASSAGE = 80  # characters; a shorter line before the question is no passage
_OPTIONAL = ("cluster", "rationale")  # fields that a line leaves out where they are not given


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must be text that is not empty")
    return text


_Text = Annotated[str, AfterValidator(_filled)]


class QuestionLine(Part):
    """One line of a question file."""

    id: _Text = Field(description="the same for the same question; made of its content where a declaration is beside")
    domain: _Text = Field(description="the domain, as the file is called")
    subject: _Text = Field(description="the set's own subject")
    question: _Text = Field(description="what is asked, with the passage before it if there is one")
    choices: list[_Text] | None = Field(description="two or more, all unlike; null for an open question")
    answer: int | str = Field(
        description="0-based index of the right choice; of an open question one number, with or without a unit"
    )
    source: _Text = Field(description="short name of the set, such as mmlu")
    licence: _Text = Field(description="under which the question may be used")
    cluster: str | None = Field(
        None, description="the same text for questions that are not independent; by their passage if not there"
    )
    rationale: _Text | None = Field(
        None, description="a worked solution or an explanation, if the set has one; no part of the `id`"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.choices is None:
            if not isinstance(self.answer, str) or parse_gold(self.answer) is None:
                raise ValueError("answer must be one number as text, such as 9 apples, where choices is null")
            return self
        if len(self.choices) < 2:
            raise ValueError("choices must be two or more")
        if len({" ".join(choice.split()) for choice in self.choices}) < len(self.choices):
            raise ValueError("two choices are the same")
        if not isinstance(self.answer, int) or not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer must be the 0-based index of a choice, 0 to {len(self.choices) - 1}")
        return self


@dataclass(frozen=True)
class Question:
    """One question, with the fields of its line."""

    id: str
    domain: str
    subject: str
    question: str
    choices: tuple[str, ...] | None
    answer: int | str
    source: str
    licence: str
    cluster: str | None = None
    rationale: str | None = None

    @property
    def protocol(self) -> str:
        """How it is asked: `choice` where it has choices, else `generation`."""
        return "generation" if self.choices is None else "choice"

    @property
    def chance(self) -> float:
        """Accuracy of a blind guess: 1 / number of choices, and 0 for an open question."""
        return 0.0 if self.choices is None else 1.0 / len(self.choices)

    @property
    def right_answer(self) -> str:
        """The right answer's text."""
        return str(self.choices[self.answer] if self.choices and isinstance(self.answer, int) else self.answer)

    @property
    def answer_bytes(self) -> int:
        """UTF-8 bytes of the right answer's text: what an answer NLL is spread over."""
        return len(self.right_answer.encode())

    def as_row(self) -> dict[str, Any]:
        """The question as the JSON object of its line."""
        row = {**vars(self), "choices": None if self.choices is None else list(self.choices)}
        return {name: value for name, value in row.items() if name not in _OPTIONAL or value is not None}


def question_id(question: str, choices: Iterable[str] | None, answer: int | str) -> str:
    """Sixteen hex digits of the content's SHA-256: the same question has the same id wherever it is prepared."""
    content = [question, None if choices is None else list(choices), answer]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def cluster_of(question: Question) -> str:
    """What stands for the questions that are not independent of this one: those with the same passage before them.

    The field `cluster` where it is given; else sixteen hex digits of the SHA-256 of all lines but the last, where
    these are a passage (80 characters or more); else the question's own id.
    """
    if question.cluster is not None:
        return question.cluster
    passage, _, _ = question.question.rstrip().rpartition("\n")
    passage = _plain(passage)
    return hashlib.sha256(passage.encode()).hexdigest()[:16] if len(passage) >= _PASSAGE else question.id


def drop_repeats(questions: Iterable[Question]) -> tuple[list[Question], int]:
    """Keep the first of questions that are alike but for case, white space and the order of choices.

    One without a rationale takes that of a repeat.

    Returns:
        The questions kept, in their order, and how many repeats were dropped.
    """
    kept: dict[tuple[str, ...], Question] = {}
    count = 0
    for item in questions:
        count += 1
        key = (_plain(item.question), *sorted(map(_plain, item.choices or ())))
        first = kept.setdefault(key, item)
        if first.rationale is None and item.rationale is not None:
            kept[key] = replace(first, rationale=item.rationale)
    return list(kept.values()), count - len(kept)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def draw(questions: Iterable[Question], *, limit: int | None, seed: int | str) -> list[Question]:
    """The `limit` questions that a seed draws: those with the smallest SHA-256 of seed and id.

    The draw hangs on nothing but the seed and the ids, so every model gets the same questions, and a larger
    limit only adds to a smaller one.
    """

    def rank(item: Question) -> str:
        return hashlib.sha256(f"{seed}:{item.id}".encode()).hexdigest()

    return sorted(questions, key=rank)[:limit]


def read_questions(path: str | Path) -> list[Question]:
    """Read one file of questions; what `<domain>.yaml` beside it declares stands for fields that its lines leave out.

    Raises:
        RegrowthError: it is missing or empty, or a line breaks the schema; `file:line` (1-based) and why.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise RegrowthError(f"{path} does not exist; `evaluate prepare --data {path.parent}` makes it") from None
    except UnicodeDecodeError:
        raise RegrowthError(f"{path} is not UTF-8 text") from None
    beside = path.with_suffix(".yaml")
    declaration = read_declaration(beside) if beside.exists() else None
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            question = parse_question(row if declaration is None else declaration.complete(row))
        except (ValueError, RecursionError) as error:
            why = "not JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else first_fault(error)
            raise RegrowthError(f"{path}:{number}: {why}") from None
        if declaration is not None and "id" not in row:
            question = replace(question, id=question_id(question.question, question.choices, question.answer))
        if question.id in seen:
            raise RegrowthError(f"{path}:{number}: the id {question.id!r} already stands on line {seen[question.id]}")
        seen[question.id] = number
        questions.append(question)
    if not questions:
        raise RegrowthError(f"{path} holds no questions")
    return questions


def parse_question(row: Any) -> Question:
    """Check one decoded line against the schema."""
    line = QuestionLine.model_validate(row)
    choices = None if line.choices is None else tuple(line.choices)
    return Question(**{**dict(line), "choices": choices})


def format_questions(questions: Iterable[Question]) -> str:
    """The text of a question file."""
    return "".join(json.dumps(item.as_row(), ensure_ascii=False) + "\n" for item in questions)
