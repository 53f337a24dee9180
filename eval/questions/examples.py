"""Worked examples for few-shot prompts: the questions that a set's publishers give for it (MMLU's dev split)."""

from __future__ import annotations

from pathlib import Path

from eval.questions.schema import Question, read_questions

FOLDER = "examples"  # below the folder of questions, whose own files are domains


def examples_path(data: str | Path, name: str) -> Path:
    """The file of the set `name`."""
    return Path(data) / FOLDER / f"{name}.jsonl"


def read_examples(data: str | Path, name: str) -> list[Question]:
    """The examples of the set `name` in their publishers' order; [] where none are prepared.

    Raises:
        RegrowthError: the file breaks the schema of questions.
    """
    path = examples_path(data, name)
    return read_questions(path) if path.exists() else []
