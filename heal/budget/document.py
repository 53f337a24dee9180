"""The document that `heal budget --json` prints, and the parts of it that the arithmetic fills in."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, computed_field

from heal.result import Stated, optional
from prune.common.files.artefact import Artefact, Part

Way = Literal["resident", "4 bits", "layer by layer", "none"]


class Gpu(Part):
    """A card. The share on an A100 is what published QLoRA runs come to when counted as here (7B to 72B: 0.32 to 0.38).

    Where memory is not faster in proportion to the peak, as on an H100, it is set lower.
    """

    name: str = Field(description="`yours` for a size of your own, `cpu` for this machine without a GPU")
    memory: int = Field(description="bytes that a program sees; of one that is here those that are free")
    peak: float = Field(description="dense bf16 FLOP/s; of `cpu` in float32, of all cores")
    share: float = Field(description="of the peak that is taken to be reached")
    bandwidth: float = Field(description="bytes a second of its memory")
    here: bool = Field(default=False, description="whether it is in this machine")
    bfloat16: bool = Field(default=True, description="whether it has products in bf16; without, they are in float32")


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


# Not `Stage`: that is the stage of a recipe, which has a name and options of its own.
class Station(Part):
    """A stage of the chain: a command, and what it takes on any card."""

    name: str = Field(description="`scan`, `cut`, `patch`, `heal`, `merge`, `run`, `compare` or `sweep`")
    command: str = Field(description="that does it")
    disk: int = Field(description="bytes that it writes; of `heal` with its checkpoints, which go when it is done")
    states: int = Field(
        description="bytes of hidden states where it goes layer by layer, in bf16: on the card while they take a "
        "quarter of its free memory, then in memory likewise, then in a temporary file"
    )
    sets: int = Field(description="that these are moved in, of equal size; each is in one place")
    work: str = Field(description="what the hours assume that it reads and writes")


class StationWay(Part):
    """How a stage goes on one card; hours are expected, not measured."""

    name: str = Field(description="of the stage")
    way: Way = Field(
        description="`resident`: the whole model in 16 bits; `4 bits`; `layer by layer` from the files; `none`: it "
        "does not fit"
    )
    passes: str | None = Field(default=None, description="of `heal`: rows a forward pass, and checkpointing; else null")
    memory: int = Field(description="bytes at the peak; of `none` those of the least way there is")
    hours: float | None = Field(description="expected; null if it does not fit")
    needs: str = Field(description="options that this way asks for, beside those that were given; empty if none")


class Fit(Part):
    """What one card makes of it; times are expected, not measured. All but `stations` is of healing."""

    gpu: Gpu = Field(description="the card")
    memory: int = Field(description="bytes at the peak of the run")
    holds: bool = Field(description="whether it holds the batch that was asked for")
    rows: int = Field(description="the most rows at this length; 0: none")
    longest: int = Field(description="the longest row of which one fits")
    tokens_per_second: float = Field(description="expected")
    hours: float = Field(description="expected")
    stations: tuple[StationWay, ...] = Field(description="the stages of the whole chain")


class Budget(Stated, Artefact):
    """What healing and the chain around it take, as `heal budget` answers. It is printed, and never read."""

    AGAIN: ClassVar[str] = "run `heal budget` again"

    format: Literal["regrowth.budget/4"] = Field(
        default="regrowth.budget/4", description="the document's format and version"
    )
    model: str = Field(description="its name")
    layers: int = Field(description="before the cut")
    parameters: int = Field(description="before the cut")
    stored: int = Field(description="bytes of its files; of a cut model that is distilled, of the full one's")
    kept: tuple[int, ...] = Field(description="the layers that stay, 0-based")
    settings: BudgetSettings = Field(description="what the estimate is for")
    tokens: int = Field(description="to heal on")
    memory: Memory = Field(description="as asked")
    memory_without_checkpointing: Memory | None = optional("absent if that is what was asked")
    memory_with_checkpointing: Memory | None = optional("absent if that is what was asked")
    flops_per_token: float = Field(description="of a training step")
    stations: tuple[Station, ...] = Field(description="the stages of the whole chain, in its order")
    card: str | None = optional("the card that is asked about, or is here; absent if neither")
    gpus: tuple[Fit, ...] = Field(description="one for each card, that one first")
    refused: tuple[str, ...] = Field(
        description="why a stage cannot run on that card even with the smallest settings, and what to change"
    )
