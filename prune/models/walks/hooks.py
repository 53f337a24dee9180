"""The states that enter and leave modules, taken by hooks while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from prune.models.loading import decoder_layers

Take = Callable[[torch.Tensor], Any]


def state_of(answer: Any) -> torch.Tensor:
    """The hidden state in what a layer answers: the answer itself, or its first part."""
    state: torch.Tensor = answer[0] if isinstance(answer, tuple | list) else answer
    return state


@contextmanager
def hooked(inputs: Mapping[Any, Take], outputs: Mapping[Any, Take]) -> Iterator[None]:
    """While the block runs, hand the state that enters or leaves each of these modules to its function."""

    def entering(take: Take) -> Any:
        return lambda _module, args, kwargs: _call(take, args[0] if args else kwargs["hidden_states"])

    def leaving(take: Take) -> Any:
        return lambda _module, _args, answer: _call(take, state_of(answer))

    handles = [module.register_forward_pre_hook(entering(take), with_kwargs=True) for module, take in inputs.items()]
    handles += [module.register_forward_hook(leaving(take)) for module, take in outputs.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call(take: Take, state: Any) -> None:
    take(state_of(state))  # what a hook returns would replace the state


class Watch:
    """Where hooked states go: to `receive`, as long as it is set."""

    def __init__(self) -> None:
        self.receive: Callable[[int, torch.Tensor], None] | None = None

    def take(self, index: int, state: torch.Tensor) -> None:
        if self.receive is not None:
            self.receive(index, state)


@contextmanager
def watching(model: Any) -> Iterator[Watch]:
    """While the block runs, every forward pass of `model`'s decoder hands x[0] .. x[L] to `Watch.receive`."""
    layers, watch = decoder_layers(model), Watch()
    inputs = {layer: partial(watch.take, index) for index, layer in enumerate(layers)}
    with hooked(inputs, {layers[-1]: partial(watch.take, len(layers))}):
        yield watch


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that holds the layers but not the LM head."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return model.base_model if decoder is None else decoder
