"""Worked examples for few-shot prompts: the questions that a set's publishers give for it (MMLU's dev split).

They stand as published, in their order: one with an option that is there twice is no question to ask, but it is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from eval.questions.schema import Question, question_id
from eval.settings import EXAMPLES
from prune.common.errors import RegrowthError
from prune.common.files.artefact import Part, first_fault


class ExampleLine(Part):
    """One line of a file of examples."""

    subject: str = Field(description="the set's own subject, before whose questions it is shown")
    question: str = Field(description="what is asked", min_length=1)
    choices: list[str] = Field(description="as published", min_length=2)
    answer: int = Field(description="0-based index of the right choice")
    source: str = Field(description="short name of the set, as the file is called")
    licence: str = Field(description="under which it may be used")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"answer must be the 0-based index of a choice, 0 to {len(self.choices) - 1}")
        return self


def examples_path(data: str | Path, name: str) -> Path:
    """The file of the set `name`."""
    return Path(data) / EXAMPLES / f"{name}.jsonl"


def format_examples(examples: Iterable[Question]) -> str:
    """The text of a file of examples."""
    rows = ({name: getattr(item, name) for name in ExampleLine.model_fields} for item in examples)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_examples(data: str | Path, name: str) -> list[Question]:
    """The examples of the set `name` in their publishers' order; [] where none are prepared.

    Raises:
        RegrowthError: a line breaks the schema; `file:line` (1-based) and why.
    """
    path = examples_path(data, name)
    if not path.exists():
        return []
    examples = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if text.strip():
            try:
                line = ExampleLine.model_validate(json.loads(text))
            except ValueError as error:
                why = "not JSON" if isinstance(error, json.JSONDecodeError) else first_fault(error)
                raise RegrowthError(f"{path}:{number}: {why}") from None
            choices = tuple(line.choices)
            made = question_id(line.question, choices, line.answer)
            examples.append(
                Question(made, "", line.subject, line.question, choices, line.answer, line.source, line.licence)
            )
    return examples
