"""Loss on held-out prose: nats per token and bits per byte, window by window."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.errors import RegrowthError
from prune.text import draw_windows, read_documents

if TYPE_CHECKING:
    from prune.terminal import Progress

WINDOWS, LENGTH = 64, 512


@dataclass(frozen=True)
class Window:
    """One window: summed NLL in nats over its scored tokens, their number, and the UTF-8 bytes they stand for."""

    nats: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Prose:
    """Held-out loss of one model; every token of a window is scored but the first, which has nothing before it."""

    windows: tuple[Window, ...]
    sha256: str  # of the windows' token ids: two models are paired where it is the same

    @property
    def nats_per_token(self) -> float:
        """Mean NLL per token, over all scored tokens."""
        return sum(w.nats for w in self.windows) / sum(w.tokens for w in self.windows)

    @property
    def bits_per_byte(self) -> float:
        """The same in bits per UTF-8 byte, which compares across tokenizers."""
        return sum(w.nats for w in self.windows) / math.log(2) / sum(w.bytes for w in self.windows)


def draw_prose(source: str, tokenizer: Any, *, field: str = "text", seed: int = 0) -> list[list[int]]:
    """The windows to score: at most 64 of at most 512 tokens, drawn by the seed."""
    return draw_windows(read_documents(source, field=field), tokenizer, samples=WINDOWS, length=LENGTH, seed=seed)


def measure_prose(model: Any, tokenizer: Any, windows: list[list[int]], *, bar: Progress) -> Prose:
    """Score windows one at a time (no padding: a window's loss hangs on nothing but itself).

    Raises:
        RegrowthError: a loss that is not a finite number.
    """
    import torch

    measured = []
    for ids in windows:
        tokens = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        nats = float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        if not math.isfinite(nats):
            raise RegrowthError(f"the model gives no finite loss ({nats}) on the held-out prose; try --dtype float32")
        measured.append(Window(nats, len(ids) - 1, _text_bytes(ids, tokenizer) - _text_bytes(ids[:1], tokenizer)))
        bar.advance()
    return Prose(tuple(measured), hashlib.sha256(json.dumps(windows).encode()).hexdigest())


def _text_bytes(ids: list[int], tokenizer: Any) -> int:
    return len(tokenizer.decode(ids).encode())
