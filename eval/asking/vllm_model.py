"""A model on vLLM that answers as `eval.asking.harness.Scorer` does, with the engine in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.settings import Settings
from prune.checkpoint.source import Source
from prune.common.screen.terminal import Progress
from prune.models.vllm.options import engine_device
from prune.models.vllm.process import VllmProcess, engine_options

PIECE = 512  # requests handed over at a time, whose answers are kept before the next go; vLLM makes its own batches
_SERVE = ("eval.asking.vllm_scorer", "VllmScorer")


class VllmModel:
    """A model behind vLLM, with `max_length` tokens of context; a CheckpointError where vLLM cannot load it."""

    def __init__(self, source: Source, settings: Settings, *, max_length: int, bar: Progress) -> None:
        device, more = engine_device(settings.device), dict(settings.backend_args)
        options = engine_options(device, dtype=settings.dtype, max_length=max_length, seed=settings.seed, more=more)
        self.bar = bar
        self.tokens = 0
        self.notes: list[str] = []
        self._hook: Any = None
        self._engine = VllmProcess(_SERVE, source, {"pretrained": str(source.folder), **options}, device=device)
        self.facts, self.close = self._engine.facts, self._engine.close

    def set_cache_hook(self, hook: Any) -> None:
        """Where each answer goes as soon as it is there."""
        self._hook = hook

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._ask("loglikelihood", [request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._ask("loglikelihood_rolling", [request.args for request in requests])

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._ask("generate_until", [request.args for request in requests])

    def window_nats(self, windows: Sequence[list[int]]) -> list[float]:
        """Summed NLL in nats of each window's tokens after the first, each given those before it."""
        return self._ask("window", list(windows))

    def _ask(self, kind: str, requests: list[Any]) -> list[Any]:
        answered: list[Any] = []
        for start in range(0, len(requests), PIECE):
            piece = requests[start : start + PIECE]
            answers, tokens = self._engine.ask(kind, piece)
            self.tokens += tokens
            for arguments, answer in zip(piece, answers, strict=True):
                self._hook.add_partial(kind, arguments, answer)
            self.bar.advance(len(piece))
            answered += answers
        return answered
