"""The full and the pruned model side by side, in one set of weights: what a fold is solved from and judged by.

The model is loaded here; `heal.patching.from_files` does the same with one that does not fit.

The pruned model is the full one with some layers passed over. The model's own forward pass supplies masks and
positions; at each layer a stand-in moves two states on, the full model's and the pruned one's, which are one and the
same up to the cut and are then computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from heal.models.lm_head import check_head, projection
from heal.models.losses import chunked_cross_entropy
from heal.patching.evidence import Evidence, Taken
from heal.patching.places import Place, find_place
from heal.text.packing import Row, collate, count_predicted
from prune.common.errors import RegrowthError
from prune.models.loading import decoder_layers, forward_takes, text_config
from prune.models.walks.hooks import hooked, state_of
from prune.models.walks.walking import Call, standing_in

Told = Callable[[int], None]
_Run = Callable[[torch.Tensor], torch.Tensor]
_Move = Callable[[int, torch.Tensor, _Run], torch.Tensor]


@dataclass(frozen=True)
class PatchText:
    """Packed rows of text: to fit, to choose a candidate by, and held out from both."""

    fit: Sequence[Row]
    choose: Sequence[Row]
    held_out: Sequence[Row]


@dataclass(frozen=True)
class Held:
    """A batch of held-out rows, run up to a place: enough to judge any change there without running it anew."""

    batch: dict[str, torch.Tensor]
    features: torch.Tensor  # (B, T, F)
    state: torch.Tensor  # (B, T, D)


class SideBySide:
    """A loaded full model and the layers (0-based) that the pruned one lacks."""

    judges_together = False  # candidates are judged one by one

    def __init__(self, model: Any, dropped: Sequence[int]) -> None:
        """
        Raises:
            RegrowthError: a model whose documents cannot be packed, or whose logits are not its head's alone.
        """
        self.model, self.dropped = model, frozenset(dropped)
        self.layers = decoder_layers(model)
        self.device, self.dtype = model.device, model.dtype
        self.decoder = model.get_decoder()
        self.changes: dict[int, tuple[Place, torch.Tensor]] = {}  # of the pruned model, by layer
        self._boxed = False  # a model's own code may hand states on in tuples
        check_positions(model)
        self.project, self.vocabulary = projection(model), text_config(model.config).vocab_size
        check_head(model, self.project)

    def look(
        self, place: Place, target: int, text: PatchText, batch_size: int, told: Told
    ) -> tuple[Evidence, list[Held]]:
        """What the text to fit shows at `place`, and the text to choose by, run up to there.

        Args:
            told: called with rows that were run.
        """
        taken = []
        for start in range(0, len(text.fit), batch_size):
            rows = text.fit[start : start + batch_size]
            taken.append(self.take(rows, place, target))
            told(len(rows))
        held = list(self.hold(text.choose, place, batch_size))
        told(len(text.choose))
        return Evidence(taken, place.scale), held

    def matrix(self, place: Place) -> torch.Tensor:
        """The projection's weight, (D, F), in float64, as the model holds it; see `Place.matrix`."""
        return place.matrix(self.layers)

    def find(self, layers: Sequence[int], ids: torch.Tensor) -> list[Place]:
        """The projections of some layers that take a fold; see `find_place`."""
        return [find_place(self.model, self.layers, layer, ids.to(self.model.device)) for layer in layers]

    def losses(self, rows: Sequence[Row], batch_size: int) -> tuple[float, float]:
        """Mean losses of the full model, and of the pruned one as it stands; nats per token."""
        full = self.mean_loss(rows, batch_size, pruned=False)
        return full, self.mean_loss(rows, batch_size)

    def loss_written(
        self, matrices: Sequence[tuple[Place, torch.Tensor]], rows: Sequence[Row], batch_size: int
    ) -> float:
        """Mean loss of the pruned model with these matrices, (D, F), in the place of its own; they stay there."""
        for place, matrix in matrices:
            place.write(self.layers, matrix)
        return self.mean_loss(rows, batch_size)

    @torch.no_grad()
    def take(self, rows: Sequence[Row], place: Place, target: int) -> Taken:
        """Run rows through the pruned model up to `place`, and through the full one up to x[target]."""
        both = self._both(self._batch(rows), place, target)
        return Taken(both.features.flatten(0, -2), both.pruned.flatten(0, 1), both.full.flatten(0, 1))

    @torch.no_grad()
    def hold(self, rows: Sequence[Row], place: Place, batch_size: int) -> Iterator[Held]:
        """Run held-out rows through the pruned model up to `place`."""
        for start in range(0, len(rows), batch_size):
            batch = self._batch(rows[start : start + batch_size])
            both = self._both(batch, place, 0)
            yield Held(batch, both.features, both.pruned)

    @torch.no_grad()
    def loss(self, held: Sequence[Held], place: Place, change: torch.Tensor | None) -> float:
        """Mean held-out loss of the pruned model with `change` at `place`, nats per token."""
        total, count = 0.0, 0
        for part in held:
            state = part.state if change is None else part.state + place.effect(change, part.features)

            def move(index: int, hidden: torch.Tensor, run: _Run, state: torch.Tensor = state) -> torch.Tensor:
                if index <= place.layer:
                    return state
                return self.run_pruned(index, hidden, run)

            total += self._summed(part.batch, move)
            count += int(count_predicted(part.batch["labels"]))
        return finite(total / count)

    def judge(self, held: Sequence[Held], place: Place, changes: Iterable[torch.Tensor]) -> list[float]:
        """`loss` of each change."""
        return [self.loss(held, place, change) for change in changes]

    @torch.no_grad()
    def mean_loss(self, rows: Sequence[Row], batch_size: int, *, pruned: bool = True) -> float:
        """Mean loss of the pruned model as it stands, or of the full one; nats per token."""
        total, count = 0.0, 0
        for start in range(0, len(rows), batch_size):
            batch = self._batch(rows[start : start + batch_size])
            total += self._summed(batch, self.run_pruned if pruned else lambda _index, hidden, run: run(hidden))
            count += int(count_predicted(batch["labels"]))
        return finite(total / count)

    def _both(self, batch: dict[str, torch.Tensor], place: Place, target: int) -> _Both:
        """Run both models up to `place` and x[target]."""
        with _watching(place.module(self.layers)) as seen, suppress(_EnoughError):
            both = _Both(self, place, target, seen)
            self._forward(batch, both.move)
        return both

    def run_pruned(self, index: int, hidden: torch.Tensor, run: _Run) -> torch.Tensor:
        """What layer `index` of the full model is in the pruned one: passed over, changed or as it is."""
        if index in self.dropped:
            return hidden
        if index not in self.changes:
            return run(hidden)
        place, change = self.changes[index]
        with _watching(place.module(self.layers)) as seen:
            out = run(hidden)
        return out + place.effect(change, place.featured(seen[-1]).view(*out.shape[:-1], -1))

    def _summed(self, batch: dict[str, torch.Tensor], move: _Move) -> float:
        hidden = self._forward(batch, move).last_hidden_state
        return chunked_cross_entropy(hidden, batch["labels"], self.project, vocabulary=self.vocabulary).item()

    def _forward(self, batch: dict[str, torch.Tensor], move: _Move) -> Any:
        with self._standing_in(move):
            return self.decoder(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)

    def _standing_in(self, move: _Move) -> Any:
        """Let `move(index, hidden, run)` answer in each layer's place; `run` is the layer itself on a state."""

        def answer(call: Call, hidden: torch.Tensor) -> Any:
            def run(state: torch.Tensor) -> torch.Tensor:
                out = call.run(state)
                self._boxed = isinstance(out, tuple)
                return state_of(out)

            moved = move(call.layer, hidden, run)
            return (moved,) if self._boxed else moved

        return standing_in(self.layers, answer)

    def _batch(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.model.device) for name, tensor in collate(rows).items()}


class _Both:
    """The states of both models in one pass: the same tensor up to the cut, so that it is computed once.

    Args:
        seen: the inputs of the projection at `place`, as the pass gives them.

    Attributes:
        full: the full model's state, (B, T, D); x[target] at the end.
        pruned: the pruned model's, (B, T, D); the output at `place` at the end.
        features: of the pruned model at `place`, (B, T, F).
    """

    full: torch.Tensor
    pruned: torch.Tensor
    features: torch.Tensor

    def __init__(self, models: SideBySide, place: Place, target: int, seen: list[torch.Tensor]) -> None:
        self._models, self._place, self._target, self._seen = models, place, target, seen
        self._last = max(place.layer, target - 1)
        self._apart = models.dropped | models.changes.keys()

    def move(self, index: int, hidden: torch.Tensor, run: _Run) -> torch.Tensor:
        """Take both states through layer `index`; raises _EnoughError after the last one that is needed."""
        at = self._place.layer
        if index == 0:
            self.full = self.pruned = hidden
        together = self.full is self.pruned and index <= at and index not in self._apart
        if index <= at:
            self.pruned = self._models.run_pruned(index, self.pruned, run)
            if index == at:
                self.features = self._place.featured(self._seen[-1]).view(*self.pruned.shape[:-1], -1)
        if together:
            self.full = self.pruned
        elif index < self._target:
            self.full = run(self.full)
        if index == self._last:
            raise _EnoughError
        return hidden


def check_positions(model: Any) -> None:
    """Raise RegrowthError for a model whose documents cannot be packed."""
    if not forward_takes(model.get_decoder(), "position_ids"):
        raise RegrowthError(
            f"{type(model).__name__} takes no positions, by which packed documents are told apart; "
            "heal patch does not support it yet"
        )


def finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise RegrowthError(f"the held-out loss is {loss}; try --dtype float32 or bfloat16")
    return loss


class _EnoughError(Exception):
    """The pass has gone as far as it has to."""


@contextmanager
def _watching(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """While the block runs, every input of `module` is appended to the list, batch and places in one dimension."""
    seen: list[torch.Tensor] = []
    with hooked({module: lambda state: seen.append(state.flatten(0, -2))}, {}):
        yield seen
