"""Which rationale stands beside which question as a control: one of another question, of the same set. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from eval.questions.schema import Question, cluster_of

_GROUP = 6  # fewest neighbours by length among which rationales change places, where there are so many


def pair_rationales(questions: Sequence[Question], lengths: Sequence[int], seed: int) -> np.ndarray:
    """For each question the number of the one whose rationale is put beside it, (n,); -1 where there is none.

    Within a set, questions are ordered by the length of their rationales; among six to eleven neighbours the rationales
    change places, in an order that the seed draws. So each rationale is read twice, beside its own question and beside
    one other, and the two means differ by nothing but what stands before the text. No question gets a rationale of its
    own, of its own passage, or of the same words.

    Args:
        lengths: tokens of each rationale; 0 for a question that has none.
    """
    partners = np.full(len(questions), -1, dtype=np.int64)
    for name in dict.fromkeys(question.source for question in questions):
        numbers = [i for i, q in enumerate(questions) if q.source == name and lengths[i] > 0]
        numbers.sort(key=lambda i: (lengths[i], _rank(questions[i], seed)))
        if len(numbers) < 2:
            continue
        for group in np.array_split(np.array(numbers), max(1, len(numbers) // _GROUP)):
            order = sorted(group.tolist(), key=lambda i: _rank(questions[i], seed))
            partners[order] = _shifted(order, questions)
    return partners


def _rank(question: Question, seed: int) -> str:
    return hashlib.sha256(f"control:{seed}:{question.id}".encode()).hexdigest()


def _shifted(order: Sequence[int], questions: Sequence[Question]) -> list[int]:
    """The members of a group, each moved on by the same number of places: the first at which fewest clash."""

    def moved(shift: int) -> list[int]:
        others = [*order[shift:], *order[:shift]]
        return [-1 if _clash(questions[i], questions[j]) else j for i, j in zip(order, others, strict=True)]

    return min((moved(shift) for shift in range(1, len(order))), key=lambda others: others.count(-1))


def _clash(one: Question, other: Question) -> bool:
    return cluster_of(one) == cluster_of(other) or one.rationale == other.rationale
