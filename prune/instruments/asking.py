"""Controls asked: whether a model's next words are the answer, and how likely it finds them. No word is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prune.instruments.controls import Control
from prune.instruments.prompts import Prompt, Prompter
from prune.instruments.reading import Reader, lay_out
from prune.instruments.scores import Floats


@dataclass(frozen=True)
class Asked:
    """For each control whether it is right, 1 or 0, and -log2 p(answer), both (C,)."""

    right: Floats
    bits: Floats


class ControlRun:
    """The same controls asked again and again, of one model with ever other heads taken out.

    Args:
        keep: layers from which on the model will change.
    """

    def __init__(self, reader: Reader, prompter: Prompter, controls: Sequence[Control], keep: Sequence[int]) -> None:
        self._reader = reader
        rows = [_coded(prompter, control) for control in controls]
        self._answers = [row[1] for row in rows]
        laid = lay_out([row[0] for row in rows], share=False, device=reader.model.device)
        self._ids, self._mask = laid.ids, laid.mask
        self._outputs: dict[int, list[Any]] = {layer: [] for layer in keep if layer and reader.stacks}
        with torch.no_grad(), reader.keeping(self._outputs):
            self.full = self._score()

    def again(self, layer: int) -> Asked:
        """Ask a model that has changed from `layer` on."""
        if layer not in self._outputs:
            return self._score()
        with self._reader.standing_in(layer, self._outputs[layer][0]):
            return self._score()

    @torch.no_grad()
    def _score(self) -> Asked:
        most = max(map(len, self._answers))
        logits = self._reader.run(self._ids, self._mask, None, last=most + 1).float()
        right, bits = [], []
        for row, answer in zip(logits, self._answers, strict=True):
            given = row[-len(answer) - 1 : -1]
            tokens = torch.tensor(answer, device=given.device)
            right.append(float((given.argmax(-1) == tokens).all()))
            bits.append(-float(given.log_softmax(-1).gather(1, tokens[:, None]).sum()) / math.log(2))
        return Asked(np.array(right), np.array(bits))


def _coded(prompter: Prompter, control: Control) -> tuple[Prompt, tuple[int, ...]]:
    """The prompt with its answer behind it, and the answer's tokens."""
    bare = prompter.ask(control.question, control.opening).ids
    whole = prompter.ask(control.question, f"{control.opening} {control.answer}").ids
    same = next((n for n, pair in enumerate(zip(bare, whole, strict=False)) if pair[0] != pair[1]), len(bare))
    return Prompt(whole), whole[same:]
