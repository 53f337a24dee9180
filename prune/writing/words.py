"""The words in which a question is put: its options, and what asks for a chain of thought."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

LETTERS = ascii_uppercase
# As the slow prompts of `evaluate` say it (eval/asking/protocols); a test holds the two together.
SLOW_CHOICE = "Reason in a few short steps, then end with a line that gives the letter: Answer: ..."
SLOW_OPEN = "Reason in a few short steps, then end with a line that gives the answer: Answer: ..."


def show_options(choices: Sequence[str]) -> str:
    """The options of a question, one a line, each behind its letter."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS[: len(choices)], choices, strict=True))


def question_words(question: str, choices: Sequence[str] | None) -> str:
    """A question as it is shown, with its options where it has any."""
    return f"{question}\n{show_options(choices)}" if choices else question


def slow_words(words: str, instruction: str | None, choices: Sequence[str] | None) -> str:
    """The same, asked for with a chain of thought.

    Args:
        instruction: the user's own words for it; "" for none, None for ours.
    """
    asked = (SLOW_CHOICE if choices else SLOW_OPEN) if instruction is None else instruction
    return f"{words}\n{asked}" if asked else words


def plain_words(words: str, *, question: bool, slow: bool) -> str:
    """What a model without a chat template is to go on from.

    Args:
        question: the words are a question, not a prompt that stands as it is.
    """
    if question:
        words = f"Question: {words}"
    return f"{words}\nReasoning:" if slow else f"{words}\nAnswer:" if question else words
