"""What the protocol `letters` puts before a question: a line that names the subject, and the subject's own examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from eval.questions.examples import examples_path, read_examples
from eval.questions.schema import Question
from prune.common.errors import UsageError

Group = tuple[str, str]  # set, subject
_NAMED = "mmlu"  # the set whose subjects say what its questions are about


def group_of(question: Question) -> Group:
    """The set and subject of a question, whose examples stand before it."""
    return question.source, question.subject


def describe_subject(question: Question) -> str:
    """What stands before all else, in the words of lm-eval's `mmlu`; other sets' subjects are no words for a reader."""
    about = f" about {question.subject.replace('_', ' ')}" if question.source == _NAMED else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def subject_examples(data: Path, questions: Iterable[Question], count: int) -> dict[Group, tuple[Question, ...]]:
    """The first `count` examples of each subject asked, in their set's order; none for a set that has no examples here.

    Args:
        data: the folder of prepared questions.

    Raises:
        UsageError: a subject of a set that has examples has fewer than `count`.
        RegrowthError: a file of examples is broken.
    """
    if not count:
        return {}
    groups = dict.fromkeys(map(group_of, questions))
    by_set: dict[str, dict[Group, list[Question]]] = {}
    for name in dict.fromkeys(name for name, _ in groups):
        by_set[name] = {}
        for item in read_examples(data, name):
            by_set[name].setdefault(group_of(item), []).append(item)
    found: dict[Group, tuple[Question, ...]] = {}
    for group in groups:
        if by_set[group[0]]:
            there = by_set[group[0]].get(group, [])
            if len(there) < count:
                path = examples_path(data, group[0])
                raise UsageError(f"--few-shot {count}: {path} has {len(there)} examples of {group[1]}")
            found[group] = tuple(there[:count])
    return found


def missing_examples(questions: Iterable[Question], own: Mapping[Group, object]) -> list[str]:
    """The sets of which some questions have no examples of their own."""
    return sorted({item.source for item in questions if group_of(item) not in own})
