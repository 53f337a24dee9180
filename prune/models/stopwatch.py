"""Seconds of every layer of a model that runs: while it reads a prompt (prefill), and while it writes (decode)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from prune.models.loading import answered_cache, cache_argument, decoder_layers, forward_takes, text_config

Clock = Callable[[], float]


@dataclass(frozen=True)
class Pass:
    """Seconds of one pass: of each layer, and of all else."""

    layers: tuple[float, ...]
    outside: float


class Stopwatch:
    """Takes the time at the borders of the layers; waits there for the device, so that each layer bears its own."""

    def __init__(self, model: Any, clock: Clock = time.perf_counter) -> None:
        self.model, self._clock, self._device = model, clock, str(model.device)
        self._layers = list(decoder_layers(model))
        self._began, self._seconds = 0.0, [0.0] * len(self._layers)
        self._cache = cache_argument(model)
        self._keep = {"logits_to_keep": 1} if forward_takes(model, "logits_to_keep") else {}

    def round(self, tokens: int, sequences: int, new_tokens: int) -> tuple[Pass, Pass]:
        """One prefill of so many tokens a sequence, then so many new tokens: the first, and the mean of a token."""
        vocabulary = int(text_config(self.model.config).vocab_size)
        ids = (torch.arange(sequences * tokens, device=self._device) % max(1, vocabulary - 2)).reshape(
            sequences, tokens
        )
        answer, read = self._pass(input_ids=ids)
        steps = []
        for _ in range(new_tokens):
            kept = {self._cache: answered_cache(answer)}
            answer, step = self._pass(input_ids=answer.logits[:, -1:].argmax(-1), **kept)
            steps.append(step)
        layers = tuple(sum(step.layers[i] for step in steps) / new_tokens for i in range(len(self._layers)))
        return read, Pass(layers, sum(step.outside for step in steps) / new_tokens)

    def _pass(self, **given: Any) -> tuple[Any, Pass]:
        self._seconds = [0.0] * len(self._layers)
        hooks = []
        for number, layer in enumerate(self._layers):
            hooks.append(layer.register_forward_pre_hook(self._enter))
            hooks.append(layer.register_forward_hook(lambda *_, at=number: self._leave(at)))
        try:
            self._enter()
            began = self._began
            with torch.no_grad():
                answer = self.model(**given, use_cache=True, **self._keep)
            whole = self._now() - began
        finally:
            for hook in hooks:
                hook.remove()
        return answer, Pass(tuple(self._seconds), max(0.0, whole - sum(self._seconds)))

    def _enter(self, *_: Any) -> None:
        self._began = self._now()

    def _leave(self, number: int) -> None:
        self._seconds[number] += self._now() - self._began

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
        elif self._device.startswith("mps"):
            torch.mps.synchronize()
        return self._clock()
