"""The inputs of a decoder's layers, taken by hooks while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prune.models.loading import decoder_layers


class Watch:
    """Where hooked states go: to `receive`, as long as it is set."""

    def __init__(self) -> None:
        self.receive: Callable[[int, torch.Tensor], None] | None = None

    def take(self, index: int, hidden: Any) -> None:
        if self.receive is not None:
            self.receive(index, hidden[0] if isinstance(hidden, (tuple, list)) else hidden)


@contextmanager
def watching(model: Any) -> Iterator[Watch]:
    """While the block runs, every forward pass of `model`'s decoder hands x[0] .. x[L] to `Watch.receive`."""
    layers = decoder_layers(model)
    watch = Watch()

    def on_input(index: int) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            watch.take(index, args[0] if args else kwargs["hidden_states"])

        return hook

    handles = [layer.register_forward_pre_hook(on_input(i), with_kwargs=True) for i, layer in enumerate(layers)]
    handles.append(layers[-1].register_forward_hook(lambda _module, _args, output: watch.take(len(layers), output)))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def decoder_of(model: Any) -> Any:
    """The part of a causal language model that holds the layers but not the LM head."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return model.base_model if decoder is None else decoder
