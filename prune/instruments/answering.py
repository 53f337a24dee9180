"""Greedy answers of a batch of prompts; each step may be watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol

import torch

from prune.instruments.attention import exposing
from prune.instruments.prompts import Prompt
from prune.instruments.reading import Reader, Reading, Rows
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
