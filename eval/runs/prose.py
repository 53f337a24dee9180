"""Loss on held-out prose: nats per token and bits per byte, window by window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.settings import Questions, named_texts
from prune.common.errors import RegrowthError
from prune.common.files.provenance import digest
from prune.text.documents import read_documents
from prune.text.windows import draw_windows

WINDOWS, LENGTH = 64, 512


@dataclass(frozen=True)
class ScoredWindow:
    """One window: summed NLL in nats over its scored tokens, their number, and the UTF-8 bytes they stand for."""

    nats: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Prose:
    """Held-out loss of one model; every token of a window is scored but the first, which has nothing before it."""

    windows: tuple[ScoredWindow, ...]
    sha256: str  # of the windows' token ids: two models are paired where it is the same

    @property
    def nats_per_token(self) -> float:
        """Mean NLL per token, over all scored tokens."""
        return sum(w.nats for w in self.windows) / sum(w.tokens for w in self.windows)

    @property
    def bits_per_byte(self) -> float:
        """The same in bits per UTF-8 byte, which compares across tokenizers."""
        return sum(w.nats for w in self.windows) / math.log(2) / sum(w.bytes for w in self.windows)


def draw_prose(settings: Questions, tokenizer: Any, context: int) -> dict[str, list[list[int]]]:
    """The windows to score, by the text's name: at most 64 of at most 512 tokens each.

    They are shorter than the context by one token at least: vLLM always generates one.
    """
    how = {"samples": WINDOWS, "length": min(LENGTH, context - 1), "seed": settings.seed}
    return {
        name: draw_windows(read_documents(source, field=settings.field), tokenizer, **how)
        for name, source in named_texts(settings.texts).items()
    }


def measure_prose(losses: Sequence[float], tokenizer: Any, windows: list[list[int]]) -> Prose:
    """Windows with the summed NLL in nats of each, its first token not scored."""
    measured = []
    for ids, nats in zip(windows, losses, strict=True):
        if not math.isfinite(nats):
            raise RegrowthError(f"the model gives no finite loss ({nats}) on the held-out prose; try --dtype float32")
        measured.append(ScoredWindow(nats, len(ids) - 1, _text_bytes(ids, tokenizer) - _text_bytes(ids[:1], tokenizer)))
    return Prose(tuple(measured), digest(windows))


def _text_bytes(ids: list[int], tokenizer: Any) -> int:
    return len(tokenizer.decode(ids).encode())
