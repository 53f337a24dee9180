"""What must not fall when retrieval heads go: facts that a model knows, and small sums. No context holds the answer.

Each is a question, the opening of its answer, and the answer's next words. A model is right where these words are what
it would write next: one pass over the prompt tells that, and how likely the words are. No word is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prune.instruments.prompts import Prompt, Prompter
from prune.instruments.reading import Reader, lay_out
from prune.instruments.scores import Floats


@dataclass(frozen=True)
class Control:
    """A question that is answered from the weights alone.

    Attributes:
        question: what is asked.
        opening: how the answer begins.
        answer: the words that follow, after a space.
    """

    question: str
    opening: str
    answer: str


_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Germany": "Berlin", "Spain": "Madrid", "Egypt": "Cairo",
    "Russia": "Moscow", "England": "London", "China": "Beijing", "Greece": "Athens", "Austria": "Vienna",
    "Poland": "Warsaw", "Portugal": "Lisbon", "Canada": "Ottawa", "Cuba": "Havana", "Iran": "Tehran",
}  # fmt: skip
_OTHERS = (
    ("Which planet is known as the red planet?", "The red planet is", "Mars"),
    ("What is the largest planet of the solar system?", "The largest planet of the solar system is", "Jupiter"),
    ("What is the largest ocean on Earth?", "The largest ocean on Earth is the", "Pacific"),
    ("What is the highest mountain on Earth?", "The highest mountain on Earth is Mount", "Everest"),
    ("Who wrote Romeo and Juliet?", "Romeo and Juliet was written by William", "Shakespeare"),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo", "da Vinci"),
    ("Who developed the theory of relativity?", "The theory of relativity was developed by Albert", "Einstein"),
    ("Who invented the telephone?", "The telephone was invented by Alexander Graham", "Bell"),
    ("What is the opposite of hot?", "The opposite of hot is", "cold"),
    ("What is the opposite of up?", "The opposite of up is", "down"),
    ("What is the largest animal on Earth?", "The largest animal on Earth is the blue", "whale"),
    ("Which language is spoken in Brazil?", "The language spoken in Brazil is", "Portuguese"),
    ("Which language is spoken in Mexico?", "The language spoken in Mexico is", "Spanish"),
    ("Which organ pumps blood through the body?", "The organ that pumps blood through the body is the", "heart"),
    ("Where do the pyramids of Giza stand?", "The pyramids of Giza stand in", "Egypt"),
    ("What is the currency of Japan?", "The currency of Japan is the", "yen"),
    ("What is the first month of the year?", "The first month of the year is", "January"),
    ("What is the last month of the year?", "The last month of the year is", "December"),
    ("What day comes after Monday?", "The day after Monday is", "Tuesday"),
    ("What do bees make?", "Bees make", "honey"),
    ("What is frozen water called?", "Frozen water is called", "ice"),
    ("What color is grass?", "The color of grass is", "green"),
    ("Which force pulls things to the ground?", "The force that pulls things to the ground is", "gravity"),
    ("Which gas do people breathe in to live?", "The gas that people breathe in to live is", "oxygen"),
)

FACTS = (
    *(
        Control(f"What is the capital of {country}?", f"The capital of {country} is", city)
        for country, city in _CAPITALS.items()
    ),
    *(Control(*fact) for fact in _OTHERS),
)


def _sums() -> tuple[Control, ...]:
    """40 sums of two small numbers: additions, subtractions and products in turn."""
    pairs = [(a, b) for a in range(2, 10) for b in range(2, 10) if a > b and (a + b) % 2]
    asked = []
    for a, b in pairs[:14]:
        asked += [(f"{a} + {b}", a + b), (f"{a + b} - {b}", a), (f"{a} * {b}", a * b)]
    return tuple(Control(f"What is {words}?", f"{words} =", str(value)) for words, value in asked[:40])


SUMS = _sums()


@dataclass(frozen=True)
class ControlScores:
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

    def again(self, layer: int) -> ControlScores:
        """Ask a model that has changed from `layer` on."""
        if layer not in self._outputs:
            return self._score()
        with self._reader.standing_in(layer, self._outputs[layer][0]):
            return self._score()

    @torch.no_grad()
    def _score(self) -> ControlScores:
        most = max(map(len, self._answers))
        logits = self._reader.run(self._ids, self._mask, None, last=most + 1).float()
        right, bits = [], []
        for row, answer in zip(logits, self._answers, strict=True):
            given = row[-len(answer) - 1 : -1]
            tokens = torch.tensor(answer, device=given.device)
            right.append(float((given.argmax(-1) == tokens).all()))
            bits.append(-float(given.log_softmax(-1).gather(1, tokens[:, None]).sum()) / math.log(2))
        return ControlScores(np.array(right), np.array(bits))


def _coded(prompter: Prompter, control: Control) -> tuple[Prompt, tuple[int, ...]]:
    """The prompt with its answer behind it, and the answer's tokens."""
    bare = prompter.ask(control.question, control.opening).ids
    whole = prompter.ask(control.question, f"{control.opening} {control.answer}").ids
    same = next((n for n, pair in enumerate(zip(bare, whole, strict=False)) if pair[0] != pair[1]), len(bare))
    return Prompt(whole), whole[same:]
