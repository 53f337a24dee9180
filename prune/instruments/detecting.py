"""Trials run on a model: greedy answers of a batch of prompts, and the scores of all heads in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from prune.choosing.heads import TrialRow
from prune.common.files.resume import FinishedParts
from prune.instruments.attention import exposing
from prune.instruments.needles import NEEDLES
from prune.instruments.prompts import Prompt, Prompter, Trial
from prune.instruments.reading import Reader, Reading, Rows
from prune.instruments.scores import ANSWERED, Floats, recall
from prune.instruments.watching import HeadWatcher
from prune.models.generation import end_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_THINKING = ("<think>", "</think>")


class Watcher(Protocol):
    """What looks on while answers are written."""

    def begin(self, model: Any, rows: Rows) -> AbstractContextManager[None]:
        """A context to hold while a batch is answered."""

    def look(self, written: torch.Tensor, counts: torch.Tensor, ids: torch.Tensor, logits: torch.Tensor) -> None:
        """Look at one step.

        Args:
            written: the token that each row goes on with, (B,).
            counts: whether it belongs to an answer, (B,).
            ids: the rows up to and without it, (B, S).
            logits: what it was chosen by, (B, V); their graph reaches back to the last layer's output.
        """


class Writer:
    """Writes greedy answers with a loaded model, `new_tokens` at most."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, new_tokens: int) -> None:
        self.reader = Reader(model)
        self._model, self._tokenizer, self._new_tokens = model, tokenizer, new_tokens
        self._ends = torch.tensor(end_tokens(model, tokenizer), device=model.device)
        vocabulary = tokenizer.get_vocab()
        self._think, self._thought = (vocabulary.get(word, -1) for word in _THINKING)

    def write(self, prompts: Sequence[Prompt], watcher: Watcher | None = None) -> list[str]:
        """Read prompts and answer them."""
        with torch.no_grad():
            return self.answer(self.reader.read(prompts), watcher)

    def answer(self, reading: Reading, watcher: Watcher | None = None) -> list[str]:
        """The answers, without what the model thinks before them; special tokens are left out."""
        steps = []
        with torch.no_grad(), watcher.begin(self._model, reading.rows) if watcher else nullcontext():
            for written, counts in self._steps(reading, watcher):
                steps.append(torch.where(counts, written, -1))
        answers = [[token for token in row if token >= 0] for row in torch.stack(steps, 1).tolist()]
        return [str(self._tokenizer.decode(answer, skip_special_tokens=True)).strip() for answer in answers]

    def _steps(self, reading: Reading, watcher: Watcher | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """At each step the tokens written, (B,), and whether each belongs to an answer."""
        ids, mask = reading.rows.ids, reading.rows.mask
        cache = copy(reading.cache)
        cache.layers = [copy(layer) for layer in cache.layers]  # the reading stays as it is
        going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        thinking = self._open_thought(ids)
        with exposing(self._model) if watcher else nullcontext():
            for _ in range(self._new_tokens):
                with torch.no_grad():  # a watcher turns it off for what comes behind the last layer
                    logits = self.reader.run(ids[:, -1:], mask, cache)[:, -1]
                written = logits.argmax(-1)
                going = going & ~torch.isin(written, self._ends)
                begins, ends = written == self._think, written == self._thought
                thinking = (thinking | begins) & ~ends
                counts = going & ~thinking & ~ends
                if watcher:
                    watcher.look(written, counts, ids, logits)
                yield written, counts
                if not going.any():
                    return
                ids = torch.cat([ids, written[:, None]], 1)
                mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)

    def _open_thought(self, ids: torch.Tensor) -> torch.Tensor:
        """Whether a prompt ends inside a thought that its template has opened, (B,)."""
        return (ids == self._think).sum(1) > (ids == self._thought).sum(1)


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
    parts: FinishedParts,
    advance: Callable[[float], None] = lambda trials: None,
) -> Detection:
    """Run trials and score all heads. A batch that is among the finished parts is not run again."""
    written: list[str] = [""] * len(trials)
    copy = write = np.zeros((len(trials), 0))
    for count, numbers in enumerate(batches(trials, batch_tokens, one_by_one=writer.reader.one_by_one)):
        part = parts.get(f"detect-{count}")
        if part is None:
            answers = writer.write([trials[number].prompt for number in numbers], watcher)
            part = {"copy": watcher.copy, "write": watcher.write, "written": np.array(answers, dtype=np.str_)}
            parts.put(f"detect-{count}", part)
        if not copy.shape[1]:
            copy, write = (np.zeros((len(trials), part["copy"].shape[1])) for _ in range(2))
        copy[numbers], write[numbers] = part["copy"], part["write"]
        for number, answer in zip(numbers, part["written"].tolist(), strict=True):
            written[number] = answer
        advance(len(numbers))
    return Detection(written, recall_of(trials, written), copy, write)


def trial_rows(trials: Sequence[Trial], recalls: Sequence[float] | Floats, written: Sequence[str]) -> list[TrialRow]:
    """What became of each trial, for a file."""
    return [
        TrialRow(
            needle=trial.needle,
            length=trial.length,
            depth=trial.depth,
            tokens=len(trial.prompt.ids),
            recall=float(share),
            written=answer,
        )
        for trial, share, answer in zip(trials, recalls, written, strict=True)
    ]


def recall_of(trials: Sequence[Trial], written: Sequence[str]) -> Floats:
    """The share of its needle's answer in each trial's, (N,)."""
    return np.array([recall(NEEDLES[trial.needle].answer, text) for trial, text in zip(trials, written, strict=True)])
