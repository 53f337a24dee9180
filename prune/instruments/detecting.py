"""Trials run on a model: the answers, and the scores of all heads in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from prune.instruments.answering import Writer
from prune.instruments.keeping import Kept
from prune.instruments.needles import NEEDLES
from prune.instruments.prompts import Prompter, Trial
from prune.instruments.scores import ANSWERED, Floats, recall
from prune.instruments.watching import HeadWatcher


@dataclass(frozen=True)
class Detection:
    """What N trials gave.

    Attributes:
        written: each answer. recall: the share of the needle's answer in it, (N,).
        copy, write: scores of each head in each trial, (N, H).
    """

    written: list[str]
    recall: Floats
    copy: Floats
    write: Floats

    @property
    def answered(self) -> np.ndarray:
        """The trials that count: those that the model has answered, (N,)."""
        return self.recall > ANSWERED


def known_without_text(writer: Writer, prompter: Prompter, batch_tokens: int) -> list[float]:
    """Recall of each needle's answer where the question is asked without any text."""
    prompts = [prompter.ask(needle.question) for needle in NEEDLES]
    size = 1 if writer.reader.one_by_one else max(1, batch_tokens // max(len(prompt.ids) for prompt in prompts))
    written = [
        answer for first in range(0, len(prompts), size) for answer in writer.write(prompts[first : first + size])
    ]
    return [recall(needle.answer, answer) for needle, answer in zip(NEEDLES, written, strict=True)]


def batches(trials: Sequence[Trial], batch_tokens: int, *, one_by_one: bool = False) -> Iterator[list[int]]:
    """Trials by their numbers: those of one length and depth together, the deepest of a length first.

    What these have in common is the text above the needle; that of the deepest holds that of all others.
    """
    order = sorted(range(len(trials)), key=lambda i: (trials[i].length, -trials[i].depth, i))
    for (length, _), cell in groupby(order, key=lambda i: (trials[i].length, trials[i].depth)):
        numbers = list(cell)
        size = 1 if one_by_one else max(1, batch_tokens // length)
        for first in range(0, len(numbers), size):
            yield numbers[first : first + size]


def detect(
    writer: Writer,
    watcher: HeadWatcher,
    trials: Sequence[Trial],
    *,
    batch_tokens: int,
    kept: Kept,
    advance: Callable[[float], None] = lambda trials: None,
) -> Detection:
    """Run trials and score all heads. A batch that was kept is not run again."""
    written: list[str] = [""] * len(trials)
    copy = write = np.zeros((len(trials), 0))
    for count, numbers in enumerate(batches(trials, batch_tokens, one_by_one=writer.reader.one_by_one)):
        parts = kept.get(f"detect-{count}")
        if parts is None:
            answers = writer.write([trials[number].prompt for number in numbers], watcher)
            parts = {"copy": watcher.copy, "write": watcher.write, "written": np.array(answers, dtype=np.str_)}
            kept.put(f"detect-{count}", parts)
        if not copy.shape[1]:
            copy, write = (np.zeros((len(trials), parts["copy"].shape[1])) for _ in range(2))
        copy[numbers], write[numbers] = parts["copy"], parts["write"]
        for number, answer in zip(numbers, parts["written"].tolist(), strict=True):
            written[number] = answer
        advance(len(numbers))
    return Detection(written, recall_of(trials, written), copy, write)


def recall_of(trials: Sequence[Trial], written: Sequence[str]) -> Floats:
    """The share of its needle's answer in each trial's, (N,)."""
    return np.array([recall(NEEDLES[trial.needle].answer, text) for trial, text in zip(trials, written, strict=True)])
