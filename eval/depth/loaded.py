"""A model that is loaded and ready to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A loaded model, its tokenizer, and how both are asked.

    device: as torch names it. context: tokens. chat: whether prompts go through the chat template.
    """

    model: Any
    tokenizer: Any
    device: str
    context: int
    chat: bool
