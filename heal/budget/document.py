"""The document that `heal budget --json` prints."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from heal.result import Stated, optional
from prune.common.artefact import Artefact, Part


class CardPart(Part):
    """A card."""

    name: str = Field(description="`yours` for a size of your own")
    memory: int = Field(description="bytes that a program sees")
    peak: float = Field(description="dense bf16 FLOP/s")
    share: float = Field(description="of the peak that healing is taken to reach")


class MemoryPart(Part):
    """Bytes at the peak, by what they hold."""

    weights: int = Field(description="frozen values")
    quantisation: int = Field(description="scales and code books of the quantised ones")
    adapter: int = Field(description="fp32")
    optimiser: int = Field(description="gradients and Adam's moments")
    activations: int = Field(description="what autograd keeps from the forward pass, across layers")
    layer: int = Field(description="what one layer takes at once beyond that")
    logits: int = Field(description="one chunk of logits")
    loading: int = Field(description="the peak before the first step")
    step: int = Field(description="the peak of a step: all but `loading`, of `layer` and `logits` the larger")
    total: int = Field(description="the larger of `step` and `loading`")


class SettingsPart(Part):
    """What the estimate is for."""

    method: str = Field(description="`qlora` or `distill`")
    first: int = Field(description="the lowest of the kept layers that carries an adapter")
    bits: int = Field(description="4, 8 or 16")
    role: str = Field(description="`feed-forward` or `all`")
    rank: int = Field(description="LoRA rank")
    dropout: float = Field(description="before the adapter")
    length: int = Field(description="tokens per row")
    batch_size: int = Field(description="rows per forward pass")
    checkpointing: bool = Field(description="whether activations are computed anew")


class VerdictPart(Part):
    """What one card makes of it; times are expected, not measured."""

    gpu: CardPart = Field(description="the card")
    memory: int = Field(description="bytes at the peak of the run")
    holds: bool = Field(description="whether it holds the batch that was asked for")
    rows: int = Field(description="the most rows at this length; 0: none")
    longest: int = Field(description="the longest row of which one fits")
    tokens_per_second: float = Field(description="expected")
    hours: float = Field(description="expected")


class BudgetDocument(Stated, Artefact):
    """What healing takes."""

    AGAIN: ClassVar[str] = "run `heal budget` again"

    format: Literal["regrowth.budget/2"] = Field(
        default="regrowth.budget/2", description="the document's format and version"
    )
    model: str = Field(description="its name")
    layers: int = Field(description="before the cut")
    parameters: int = Field(description="before the cut")
    kept: tuple[int, ...] = Field(description="the layers that stay, 0-based")
    settings: SettingsPart = Field(description="what the estimate is for")
    tokens: int = Field(description="to heal on")
    memory: MemoryPart = Field(description="as asked")
    memory_without_checkpointing: MemoryPart | None = optional("absent if that is what was asked")
    memory_with_checkpointing: MemoryPart | None = optional("absent if that is what was asked")
    flops_per_token: float = Field(description="of a training step")
    gpus: tuple[VerdictPart, ...] = Field(description="one for each card")
