"""A loaded model's layers run by us, so that variants of it share what they have in common.

A *route* is one way up through the layers: some are dropped, and from one layer on an adapter may be at work. The
model's own forward pass is run once per batch with its layers standing still, which tells each layer's masks and
positions; then the routes are walked as a tree, from the bottom, each layer once for all routes that are still one
there. Only the states at the branches being walked are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from prune.common.errors import RegrowthError
from prune.models.loading import decoder_layers, forward_takes
from prune.models.walks.hooks import state_of

DROP = "drop"  # what `Route.at` says of a layer that is left out


@dataclass(frozen=True)
class Call:
    """How the model's own forward pass called a layer, but for the state that it gave."""

    layer: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    forward: Callable[..., Any]

    def run(self, state: torch.Tensor) -> Any:
        """What the layer itself answers to `state`."""
        return self.forward(state, *self.args, **self.kwargs)


@contextmanager
def standing_in(layers: Iterable[Any], answer: Callable[[Call, torch.Tensor], Any]) -> Iterator[None]:
    """While the block runs, `answer(call, state)` replies in each layer's place, in the layers' own form."""
    layers = list(layers)
    forwards = [layer.forward for layer in layers]
    set_before = ["forward" in vars(layer) for layer in layers]  # accelerate, too, sets a forward on the instance

    def stand_in(index: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            state = args[0] if args else kwargs.pop("hidden_states")
            return answer(Call(index, args[1:], kwargs, forwards[index]), state)

        return forward

    for index, layer in enumerate(layers):
        layer.forward = stand_in(index)
    try:
        yield
    finally:
        for layer, forward, was_set in zip(layers, forwards, set_before, strict=True):
            if was_set:
                layer.forward = forward
            else:
                del layer.forward


class PassThrough(torch.nn.Module):
    """Stands for a layer that is not run: `answer` replies to its calls.

    For the rest it is that layer: a few decoders ask one for its kind before they run it.
    """

    def __init__(self, layer: torch.nn.Module, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer = answer
        self.stands_for = (layer,)  # in a tuple, so that it is no part of this module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["stands_for"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer(*args, **kwargs)


@dataclass(frozen=True)
class Route:
    """One way through the layers, which are 0-based.

    dropped: layers left out. adapter: the name of what `Walk`'s switch turns on, from layer `adapted_from` on.
    """

    dropped: frozenset[int] = frozenset()
    adapter: str | None = None
    adapted_from: int = 0

    def at(self, layer: int) -> tuple[str, str | None]:
        """What happens at a layer; routes that agree on all layers so far share their state."""
        if layer in self.dropped:
            return DROP, None
        return "run", self.adapter if self.adapter is not None and layer >= self.adapted_from else None


def branches(routes: Iterable[Route], layer: int) -> dict[tuple[str, str | None], list[Route]]:
    """Routes by what happens to them at `layer`: those that drop it first, the plain run last."""
    groups: dict[tuple[str, str | None], list[Route]] = {}
    for route in routes:
        groups.setdefault(route.at(layer), []).append(route)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] != DROP, item[0][1] is None, item[0][1] or "")))


def count_passes(layers: int, routes: Iterable[Route]) -> int:
    """How many layers a walk of these routes runs; one model alone runs `layers`."""

    def below(layer: int, some: Sequence[Route]) -> int:
        if layer == layers:
            return 0
        return sum((what != DROP) + below(layer + 1, group) for (what, _), group in branches(some, layer).items())

    routes = list(dict.fromkeys(routes))
    return below(0, routes) if routes else 0


class Walk:
    """A model whose layers are run by us while its own forward pass supplies their masks and positions."""

    def __init__(self, model: Any, routes: Iterable[Route], switch: Callable[[str | None], None] | None) -> None:
        self.model, self.routes = model, list(dict.fromkeys(routes))
        self.layers = list(decoder_layers(model))
        self.takes_positions = forward_takes(model, "logits_to_keep")
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self.passes = count_passes(len(self.layers), self.routes)
        self._switch = switch
        self._replayed: torch.Tensor | None = None
        self._first: torch.Tensor | None = None
        self._second: torch.Tensor | None = None  # layer 0's output, where it is known already
        self._calls: list[Call] = []  # of each layer, in the model's own pass
        self._rest: tuple[Any, ...] | None = None  # what a layer returns behind its state, if it returns a tuple
        self._known = False  # whether that is known

    def states(self, **inputs: Any) -> Iterator[tuple[Route, torch.Tensor]]:
        """The last layer's output of every route in turn, (B, T, D), for the model's own inputs (input_ids, ...).

        Raises:
            RegrowthError: the model does not call its layers one after the other, each once.
        """
        self._replayed, self._first, self._calls = None, None, []
        keep = {"logits_to_keep": 1} if self.takes_positions else {}
        self.model(**inputs, use_cache=False, **keep)
        if len(self._calls) != len(self.layers) or self._first is None:
            raise self._not_in_turn()
        first, self._first = self._first, None
        yield from self._below(0, self.routes, first)
        self._calls = []

    def logits(self, state: torch.Tensor, positions: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        """float32 logits of a last layer's output, by the model's own norm, head and caps.

        Args:
            state: (B, T, D), for the inputs that it was made from.
            positions: positions to score, (P,); all if None.

        Returns:
            (B, P, vocabulary).
        """
        self._replayed = state
        logits = picked_logits(self.model, positions, picks=self.takes_positions, **inputs)
        self._replayed = None
        return logits

    def head(self, state: torch.Tensor) -> torch.Tensor:
        """float32 logits, (P, vocabulary), of vectors (P, D) picked from anywhere in a last layer's output.

        Holds where norm and head take each position by itself, whatever stood around it; a caller checks that it does.
        """
        blank = torch.zeros(1, len(state), dtype=torch.int64, device=state.device)
        return self.logits(state.unsqueeze(0), input_ids=blank)[0]

    def _below(self, layer: int, routes: list[Route], state: torch.Tensor) -> Iterator[tuple[Route, torch.Tensor]]:
        while layer < len(self.layers):
            groups = list(branches(routes, layer).items())
            for what, group in groups[:-1]:
                yield from self._below(layer + 1, group, self._step(layer, what, state))
            what, routes = groups[-1]
            state = self._step(layer, what, state)
            layer += 1
        for route in routes:
            yield route, state

    def _step(self, layer: int, what: tuple[str, str | None], state: torch.Tensor) -> torch.Tensor:
        if what[0] == DROP:
            return state
        known, self._second = self._second, None
        if layer == 0 and what[1] is None and known is not None:
            return known
        if self._switch is not None:
            self._switch(what[1])
        return state_of(self._calls[layer].run(state))

    def answer(self, call: Call, state: torch.Tensor) -> Any:
        """What a layer does in the model's own pass: take note of its call, or hand back what is replayed."""
        if self._replayed is not None:
            return self._hand_on(self._replayed if call.layer == len(self.layers) - 1 else state)
        if call.layer != len(self._calls):
            raise self._not_in_turn()
        self._calls.append(call)
        if call.layer == 0:
            self._first = state
            if not self._known:  # the first time it is run here, to see what it returns
                out = call.run(state)
                self._known, self._rest = True, tuple(out[1:]) if isinstance(out, tuple | list) else None
                self._second = state_of(out)
        return self._hand_on(state)

    def _hand_on(self, state: torch.Tensor) -> Any:
        return state if self._rest is None else (state, *self._rest)

    def _not_in_turn(self) -> RegrowthError:
        return RegrowthError(f"{type(self.model).__name__} does not run its layers in turn, so they cannot be walked")


def picked_logits(model: Any, positions: torch.Tensor | None, *, picks: bool, **inputs: Any) -> torch.Tensor:
    """float32 logits, (B, P, vocabulary), of the model's own pass.

    Args:
        positions: (P,); all if None.
        picks: the model takes positions, and makes no logits of others.
    """
    keep = {"logits_to_keep": positions} if picks and positions is not None else {}
    logits: torch.Tensor = model(**inputs, use_cache=False, **keep).logits
    return (logits if keep or positions is None else logits[:, positions]).float()


@contextmanager
def walking(
    model: Any, routes: Iterable[Route], *, switch: Callable[[str | None], None] | None = None
) -> Iterator[Walk]:
    """Take over the layers of a loaded model for the length of the block.

    Args:
        routes: ways through its layers, 0-based.
        switch: called before each layer with the name of the adapter to be at work, None for none.
    """
    walk = Walk(model, routes, switch)
    try:
        with standing_in(walk.layers, walk.answer):
            yield walk
    finally:
        if switch is not None:
            switch(None)
