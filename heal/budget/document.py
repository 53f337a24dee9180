"""The document that `heal budget --json` prints, and the parts of it that the arithmetic fills in."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, computed_field

from heal.result import Stated, optional
from prune.common.artefact import Artefact, Part


class Gpu(Part):
    """A card. The share on an A100 is what published QLoRA runs come to when counted as here (7B to 72B: 0.32 to 0.38).

    On an H100 it is set lower, because its memory is not faster in proportion.
    """

    name: str = Field(description="`yours` for a size of your own")
    memory: int = Field(description="bytes that a program sees")
    peak: float = Field(description="dense bf16 FLOP/s")
    share: float = Field(description="of the peak that healing is taken to reach")


class Memory(Part):
    """Bytes at the peak of a training step, by what they hold."""

    weights: int = Field(description="frozen values")
    quantisation: int = Field(description="scales and code books of the quantised ones")
    adapter: int = Field(description="fp32")
    optimiser: int = Field(description="gradients and Adam's moments")
    activations: int = Field(description="what autograd keeps from the forward pass, across layers")
    layer: int = Field(description="what one layer takes at once beyond that")
    logits: int = Field(description="one chunk of logits")
    loading: int = Field(
        description="the peak before the first step: the weights, and on a GPU one tensor as it was stored, on a CPU "
        "the files as well, which are mapped while they are read"
    )

    @computed_field(  # type: ignore[prop-decorator]
        description="the peak of a step: all but `loading`, of `layer` and `logits` the larger"
    )
    @property
    def step(self) -> int:
        held = self.weights + self.quantisation + self.adapter + self.optimiser + self.activations
        return held + max(self.layer, self.logits)

    @computed_field(  # type: ignore[prop-decorator]
        description="the peak of the run: the larger of `step` and `loading`"
    )
    @property
    def total(self) -> int:
        return max(self.step, self.loading)


class BudgetSettings(Part):
    """What the estimate is for."""

    method: str = Field(description="`qlora`, or `distill`, for which the full model stays loaded")
    first: int = Field(description="the lowest of the kept layers that carries an adapter")
    bits: int = Field(description="4, 8 or 16")
    role: str = Field(description="`feed-forward` or `all`")
    rank: int = Field(description="LoRA rank")
    dropout: float = Field(description="before the adapter")
    length: int = Field(description="tokens per row")
    batch_size: int = Field(description="rows per forward pass")
    checkpointing: bool = Field(description="whether activations are computed anew")


class Verdict(Part):
    """What one card makes of it; times are expected, not measured."""

    gpu: Gpu = Field(description="the card")
    memory: int = Field(description="bytes at the peak of the run")
    holds: bool = Field(description="whether it holds the batch that was asked for")
    rows: int = Field(description="the most rows at this length; 0: none")
    longest: int = Field(description="the longest row of which one fits")
    tokens_per_second: float = Field(description="expected")
    hours: float = Field(description="expected")


class Budget(Stated, Artefact):
    """What healing takes, as `heal budget` answers. It is printed, and never read."""

    AGAIN: ClassVar[str] = "run `heal budget` again"

    format: Literal["regrowth.budget/2"] = Field(
        default="regrowth.budget/2", description="the document's format and version"
    )
    model: str = Field(description="its name")
    layers: int = Field(description="before the cut")
    parameters: int = Field(description="before the cut")
    kept: tuple[int, ...] = Field(description="the layers that stay, 0-based")
    settings: BudgetSettings = Field(description="what the estimate is for")
    tokens: int = Field(description="to heal on")
    memory: Memory = Field(description="as asked")
    memory_without_checkpointing: Memory | None = optional("absent if that is what was asked")
    memory_with_checkpointing: Memory | None = optional("absent if that is what was asked")
    flops_per_token: float = Field(description="of a training step")
    gpus: tuple[Verdict, ...] = Field(description="one for each card")
