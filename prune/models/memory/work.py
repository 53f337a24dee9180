"""What a prompt takes beside weights and cache while it is read: activations, masks, logits.

A model without values (`prune.models.memory.skeleton`) reads the prompt, and the tensors that come and go are counted
(`prune.models.memory.live_bytes`). So it is what transformers itself allocates with fused attention (`sdpa`), which
keeps no scores; a family that has it not keeps them, and they are counted. The logits are those that `generate` takes:
of the last token where the model can, copied to fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from prune.models.loading import answered_cache, cache_argument, decoder_layers, forward_takes
from prune.models.memory.kv_cache import LayerCache, cache_of
from prune.models.memory.live_bytes import LiveBytes
from prune.models.memory.needs import Work
from prune.models.memory.skeleton import without_values
from prune.models.walks.hooks import state_of

# Tokens: models with states run token by token or chunk by chunk, so long prompts are reckoned from short ones.
_SHORT = (256, 512)  # Mamba 2 fills its tokens up to pieces of 256
_TOTALS = (576, 640)  # of a prompt whose last chunk is that short


def prompt_work(
    model: Any, name: str, caches: Sequence[LayerCache], *, tokens: int, sequences: int, chunk: int | None
) -> Work:
    """What reading a prompt takes, at its end.

    Args:
        model: without values.
        name: for messages.
        caches: of its layers, from `prune.models.memory.kv_cache.layer_caches`.
        tokens: of the prompt. sequences: prompts at once, all of that length.
        chunk: tokens that are read at a time; all if None.

    Raises:
        CheckpointError: the model does not run without values.
    """
    chunk = min(chunk or tokens, tokens)
    if tokens <= _SHORT[-1] or not any(cache.state for cache in caches):
        return _measured(model, name, caches, tokens, sequences, chunk)
    if chunk == tokens:
        whole = [_measured(model, name, caches, length, sequences, length) for length in _SHORT]
        return _reached(whole, _SHORT, tokens)
    # A chunk copies keys and values of all before it, and its mask is as wide: even in either length for itself.
    ends = [
        _reached([_measured(model, name, caches, total, sequences, part) for part in _SHORT], _SHORT, chunk)
        for total in _TOTALS
    ]
    return _reached(ends, _TOTALS, tokens)


def _reached(works: Sequence[Work], lengths: tuple[int, int], tokens: int) -> Work:
    """What grows evenly from one to the other of two lengths, at another one."""
    (first, second), (few, many) = works, lengths

    def at(before: int, after: int) -> int:
        return after + (after - before) * (tokens - many) // (many - few)

    return Work(
        at(first.begin, second.begin),
        tuple(map(at, first.layers, second.layers)),
        tuple(map(at, first.beyond, second.beyond)),
        at(first.end, second.end),
    )


def _measured(model: Any, name: str, caches: Sequence[LayerCache], tokens: int, sequences: int, chunk: int) -> Work:
    keep = {"logits_to_keep": 1} if forward_takes(model, "logits_to_keep") else {}
    ids = torch.zeros((sequences, tokens), dtype=torch.long, device="meta")
    live, read = LiveBytes(), tokens - chunk
    grown = [cache.bytes(tokens, sequences) - (cache.bytes(read, sequences) if read else 0) for cache in caches]
    with without_values(name, "what a prompt takes"), live:
        past: dict[str, Any] = {}
        if read:
            answer = model(input_ids=ids[:, :read], use_cache=True, **keep)
            _cut_windows(cache_of(answer))
            past = {cache_argument(model): answered_cache(answer)}
        with _Watch(list(decoder_layers(model)), live) as watch:
            answer = model(input_ids=ids[:, read:], use_cache=True, **past, **keep)
            answer.logits[:, -1].to(dtype=torch.float32, copy=True)
    return watch.work(grown)


def _cut_windows(cache: Any) -> None:
    """Let go of what lies before the windows, as the passes before the last one have."""
    for layer in getattr(cache, "layers", []):
        if getattr(layer, "sliding_window", None) is not None:
            layer.keys, layer.values = layer.keys.clone(), layer.values.clone()


class _Watch:
    """Takes the bytes at the layers' borders while a model runs."""

    def __init__(self, layers: Sequence[Any], live: LiveBytes) -> None:
        self._layers, self._live, self._hooks = layers, live, list[Any]()
        self._held = self._base = self._begin = 0
        self._within, self._left = [0] * len(layers), [0] * len(layers)
        self._entered = False

    def __enter__(self) -> _Watch:
        self._held = self._live.now
        self._live.restart()
        for number, layer in enumerate(self._layers):
            leave = partial(self._leave, number)
            self._hooks.append(layer.register_forward_pre_hook(self._enter))
            self._hooks.append(layer.register_forward_hook(leave, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: Any) -> None:
        if not self._entered:
            self._entered = True
            self._begin = self._live.peak - self._held
        self._base = self._live.now
        self._live.restart()

    def _leave(self, number: int, _layer: Any, args: Any, kwargs: Any, answer: Any) -> None:
        before, state = args[0] if args else kwargs.get("hidden_states"), state_of(answer)
        left = self._live.now - self._base - (0 if state is before else state.nbytes)
        self._left[number] += max(0, left)
        self._within[number] = max(self._within[number], self._live.peak - self._held - sum(self._left))
        self._live.restart()

    def work(self, grown: Sequence[int]) -> Work:
        """What was seen; `grown`: by how much each layer's cache did."""
        beyond = tuple(max(0, left - own) for left, own in zip(self._left, grown, strict=True))
        end = self._live.peak - self._held - sum(self._left)
        return Work(self._begin, tuple(self._within), beyond, end)
