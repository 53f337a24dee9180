"""The full and the pruned model side by side where they do not fit: layer by layer from the full model's files.

As `heal.patching.side_by_side`, to the same numbers. Both models share each walk up to the cut, and all candidates that
are judged together share one through the layers above the place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from heal.models.from_files import summed_losses, without_labels
from heal.models.lm_head import check_same, projection
from heal.patching.evidence import Evidence, Taken
from heal.patching.places import Place, in_order, place_in
from heal.patching.side_by_side import Held, PatchText, Told, check_positions, finite
from heal.text.packing import Row, count_predicted, in_batches
from prune.models.loading import decoder_layers
from prune.models.walks.hooks import hooked
from prune.models.walks.layerwise import Finish, Inputs, Layerwise, Walked, walked
from prune.models.walks.walking import Route

_PRUNED = "pruned"  # what is at work in the pruned model, and not in the full one


class FromFiles:
    """A full model that is run from its files, and the layers (0-based) that the pruned one lacks."""

    judges_together = True  # each walk reads the files, so as many candidates as can be share one

    def __init__(self, files: Layerwise, dropped: Sequence[int]) -> None:
        """
        Raises:
            RegrowthError: a model whose documents cannot be packed.
        """
        self.files, self.dropped = files, frozenset(dropped)
        self.model, self.layers = files.model, decoder_layers(files.model)
        self.device, self.dtype = files.device, files.dtype
        self.changes: dict[int, tuple[Place, torch.Tensor]] = {}  # of the pruned model, by layer
        check_positions(files.model)

    def look(
        self, place: Place, target: int, text: PatchText, batch_size: int, told: Told
    ) -> tuple[Evidence, list[Held]]:
        """What the text to fit shows at `place`, and the text to choose by, run up to there; in one walk.

        Args:
            told: called with rows that were run.
        """
        fit = in_batches(text.fit, batch_size)
        batches = [*fit, *in_batches(text.choose, batch_size)]
        features: list[torch.Tensor] = []
        pruned = self._pruned(first=min([place.layer, *self.changes]))

        @contextmanager
        def dress(_name: str, index: int, _layer: Any) -> Iterator[Finish | None]:
            with self._changed(index) as finish:
                if index != place.layer:
                    yield finish
                    return
                with self._watching(place, features.append):
                    yield finish

        taken, held = [], []
        with self._walked(batches, [Route(), pruned], dress=dress, span=range(target)) as ends:
            for number, batch in enumerate(batches):
                states = ends.states(number)
                seen = place.featured(features[number])
                if number < len(fit):
                    state, goal = states[pruned].flatten(0, 1), states[Route()].flatten(0, 1)
                    taken.append(Taken(seen.flatten(0, -2), state, goal))
                else:
                    moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
                    held.append(Held(moved, seen, states[pruned]))
        told(len(text.fit) + len(text.choose))
        return Evidence(taken, place.scale), held

    def loss(self, held: Sequence[Held], place: Place, change: torch.Tensor | None) -> float:
        """Mean held-out loss of the pruned model with `change` at `place`, nats per token."""
        return self.judge(held, place, [change])[0]

    def judge(self, held: Sequence[Held], place: Place, changes: Iterable[torch.Tensor | None]) -> list[float]:
        """`loss` of each change, in one walk; a change may go as soon as the next is asked for."""
        batches, last = [part.batch for part in held], len(self.files.layers)

        def given() -> Iterator[tuple[Route, Iterable[torch.Tensor]]]:
            for number, change in enumerate(changes):
                starts = (
                    part.state if change is None else part.state + place.effect(change, part.features) for part in held
                )
                yield Route(self.dropped, str(number), last), starts

        span = range(place.layer + 1, last)
        with self._walked(batches, [Route(self.dropped)], span=span, given=given()) as ends:
            totals = summed_losses(self.files, ends, batches)
        return [finite(total / _count(batches)) for total in totals.values()]

    def losses(self, rows: Sequence[Row], batch_size: int) -> tuple[float, float]:
        """Mean losses of the full model, and of the pruned one as it stands; nats per token.

        Raises:
            RegrowthError: the model's logits are not its head's alone.
        """
        batches, full, pruned = in_batches(rows, batch_size), Route(), Route(self.dropped)
        with self._walked(batches, [full, pruned]) as ends:
            self._check_head(batches[0], ends)
            totals = summed_losses(self.files, ends, batches)
        count = _count(batches)
        return finite(totals[full] / count), finite(totals[pruned] / count)

    def loss_written(
        self, matrices: Sequence[tuple[Place, torch.Tensor]], rows: Sequence[Row], batch_size: int
    ) -> float:
        """Mean loss of the pruned model with these matrices, (D, F), in the place of its own."""
        batches, by_layer = in_batches(rows, batch_size), {place.layer: (place, matrix) for place, matrix in matrices}

        @contextmanager
        def dress(_name: str, index: int, _layer: Any) -> Iterator[None]:
            if index in by_layer:
                place, matrix = by_layer[index]
                place.write(self.layers, matrix)  # over weights that were read and go with the layer
            yield

        pruned = self._pruned(first=min(by_layer, default=0))
        with self._walked(batches, [pruned], dress=dress) as ends:
            totals = summed_losses(self.files, ends, batches)
        return finite(totals[pruned] / _count(batches))

    def matrix(self, place: Place) -> torch.Tensor:
        """The projection's weight, (D, F), in float64, as it is run; see `Place.matrix`."""
        stored = self.files.stored_names(place.layer)
        names = [f"{place.path}.{part}" for part in (("weight", "bias") if place.bias else ("weight",))]
        parts = [self.files.weights.load(stored[name]).to(self.device, self.dtype) for name in names]
        return place.joined(parts[0], parts[1] if place.bias else None)

    def find(self, layers: Sequence[int], ids: torch.Tensor) -> list[Place]:
        """The projections of some layers that take a fold; see `heal.patching.places.find_place`."""
        found: dict[int, Place] = {}
        batch = {"input_ids": ids}

        def see(index: int, _number: int, before: torch.Tensor | None, _after: torch.Tensor) -> None:
            if index in layers and before is not None:
                found[index] = self._place(index, batch, before)

        with self._walked([batch], [Route()], see=see, span=range(max(layers) + 1)):
            pass
        return [found[layer] for layer in layers]

    def _place(self, index: int, batch: Inputs, state: torch.Tensor) -> Place:
        call = self.files.call(index, batch, state)
        bare = copy.deepcopy(self.layers[index])
        del bare.forward  # what stands in for the layer during the walk
        with in_order(bare) as order:
            bare(state, *call.args, **call.kwargs)
        return place_in(self.model, bare, index, ((state, *call.args), dict(call.kwargs)), order)

    def _check_head(self, batch: Mapping[str, torch.Tensor], ends: Walked) -> None:
        few = {name: tensor[:1, :8].to(self.device) for name, tensor in without_labels(batch).items()}
        state = ends.states(0)[Route()][:1, :8]
        with self.files.head():
            hidden = self.files.hidden(state, **few)
            check_same(self.model, projection(self.model)(hidden), self.files.logits(state, **few))

    def _pruned(self, *, first: int) -> Route:
        return Route(self.dropped, _PRUNED, first)

    @contextmanager
    def _changed(self, index: int) -> Iterator[Finish | None]:
        """While the block runs, the change at a layer, where there is one, is added to what it gives."""
        if index not in self.changes:
            yield None
            return
        place, change = self.changes[index]
        seen: list[torch.Tensor] = []

        def finish(out: torch.Tensor) -> torch.Tensor:
            return out + place.effect(change, place.featured(seen.pop()))

        with self._watching(place, seen.append):
            yield finish

    def _watching(self, place: Place, take: Callable[[torch.Tensor], Any]) -> Any:
        return hooked({place.module(self.layers): take}, {})

    def _walked(self, batches: Sequence[Mapping[str, torch.Tensor]], routes: Sequence[Route], **how: Any) -> Any:
        return walked(self.files, [without_labels(batch) for batch in batches], routes, **how)


def _count(batches: Sequence[Mapping[str, torch.Tensor]]) -> int:
    return sum(int(count_predicted(batch["labels"])) for batch in batches)
