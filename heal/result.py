"""What healing gives back, and heal.json: the settings, the course and the outcome of a run, a patch or a merge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from prune.common.files.artefact import Artefact, Part
from prune.common.files.formats import HEAL

RECORD_FILE = "heal.json"
NATS = "nats per token"
Base = Literal["dequantised", "original"]


def optional(description: str) -> Any:
    """A field that is None, and not written, where there is nothing to say."""
    return Field(default=None, description=description)


class Stated(Part):
    """A part that is written without those of its fields that are None."""

    @model_serializer(mode="wrap")
    def _without_none(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialise(self).items() if value is not None}


class Point(Part):
    """One point of the curve. Losses in nats per token."""

    step: int = Field(description="optimiser steps done; 0 is before training")
    tokens: int = Field(description="trained on so far")
    loss: float | None = Field(description="mean over the steps since the point before; null at the first")
    held_out_loss: float = Field(description="on all held-out text")
    texts: dict[str, float] = Field(description="the loss on each held-out and domain text by its name")


class HeldOutLoss(Stated):
    """Held-out losses of a run or a patch."""

    full: float | None = optional("of `patch`: the full model")
    before: float = Field(description="of the base in the training precision; of `patch`: the cut")
    after: float = Field(description="with the adapter that was kept; of `patch`: the patched model")
    unit: str = Field(default=NATS, description="of the losses")


class Unquantised(Stated):
    """Held-out losses at the end of a run, or why there are none."""

    cut: float | None = optional("the unquantised cut")
    original: float | None = optional("the adapter on the cut's own weights")
    dequantised: float | None = optional("the adapter on the quantised weights; absent for 16 bits")
    better: bool | None = optional("whether `original` or `dequantised` is below `cut`")
    unit: str | None = optional("of the losses")
    not_compared: str | None = optional("in place of the losses: why there are none")


class MeasuredText(Part):
    """One text that was measured."""

    name: str = Field(description="told apart by it in the curve")
    source: str = Field(description="as it was named")
    domain: bool = Field(description="measured besides, and no part of the held-out loss")
    tokens: int = Field(description="measured")


class HeldOutText(Stated):
    """What was measured."""

    tokens: int = Field(description="measured; those of domain texts do not count")
    limit: int | None = optional("of runs that train: tokens of each text that are measured at most")
    sha256: str | None = optional("of runs that train: hash of the rows")
    share: float | None = optional("of the text that is held out; absent if other text was named")
    texts: tuple[MeasuredText, ...] | None = optional("of runs that train: each text")


class Ended(Part):
    """How training ended."""

    by: Literal["budget", "patience", "text"] = Field(description="what ended it: `budget`, `patience` or `text`")
    step: int = Field(description="it ended at")
    kept_step: int = Field(description="the adapter is that of this step")
    texts: tuple[str, ...] = Field(description="that gave all they had")


class Candidate(Part):
    """One patch that was tried."""

    layer: int = Field(description="of the full model")
    kind: str = Field(description="`matrix` or `map`")
    objective: str = Field(description="what counted as near")
    ridge: float = Field(description="share of the mean of the diagonal of the features' Gram matrix")
    share: float | None = Field(
        description="what the massive tokens count together, all others being 1; null if the objective sets none"
    )
    loss: float = Field(default=float("inf"), description="on the text that chose, nats per token")
    left_over: float = Field(default=1.0, description="share of the weighted squares that stays")


class FoldRecord(Part):
    """What a patch did before one dropped block."""

    layer: int = Field(description="of the full model, which took the fold")
    target: int = Field(description="layer of the full model whose input the fold aims at")
    module: str = Field(description="the projection, below its layer")
    scale: float = Field(description="by which its output is multiplied on the way to the residual stream")
    bias: bool = Field(description="whether it has one")
    tensors: tuple[str, ...] = Field(description="of the checkpoint")
    loss_without: float = Field(description="on the text that chose, without a change")
    chosen: Candidate | None = Field(description="null if none was better than no patch")
    candidates: tuple[Candidate, ...] = Field(description="all that were tried, in order")


class Responses(Part):
    """Counts of what the full model wrote; the text is in responses.jsonl."""

    responses: int = Field(description="how many")
    tokens: int = Field(description="of all of them")
    finished: int = Field(description="responses that the model ended itself")


class Chats(Part):
    """Counts of the chats that were packed into rows."""

    read: int = Field(description="how many")
    cut: int = Field(description="longer than a row, and cut at its end")
    passed_over: int = Field(description="whose first tokens, as many as a row has, do not count in the loss")


class Agreement(Stated):
    """Logits against those of the adapter as trained."""

    tokens: int = Field(description="held-out tokens compared")
    max_abs: float = Field(description="largest difference of logits")
    mean_abs: float = Field(description="mean difference of logits")
    kl: float = Field(description="mean KL in nats")
    same_first: float = Field(description="share of equal first choices")
    bound: float | None = optional("the largest `kl` that rounding explains; absent if there is none")


class Chosen(Stated):
    """How `--base auto` chose."""

    by: Literal["measured", "recorded", "default", "only"] = Field(
        description="`measured` now; `recorded` by `unquantised`; `default`: neither is known; `only`: one base"
    )
    losses: dict[Base, float] | None = optional("of both bases; absent if they are not known")
    unit: str | None = optional("of the losses")
    why: str | None = optional("they were not measured")


class _Compared(Stated):
    versions: dict[str, str] = Field(description="of the libraries")
    command: str = Field(description="that wrote it")
    agreement: Agreement | None = optional("absent if not compared")
    not_compared: str | None = optional("in place of `agreement`: why the logits could not be compared")


class MergeFacts(_Compared):
    """A merge."""

    base: Base = Field(description="`dequantised` or `original`")
    adapted: int = Field(description="tensors that the adapter was added to")
    dequantised: int = Field(description="tensors saved as quantisation left them")
    scaling: float = Field(description="alpha / rank")
    chosen: Chosen | None = optional("of `--base auto`, where there was a choice")
    held_out: dict[str, Any] | None = optional("`tokens` measured on, and the identity of their source")


class ShipFacts(_Compared):
    """An adapter on the full model."""

    full: dict[str, Any] = Field(description="identity of the model it goes on")
    words: str = Field(description="the cut in words")
    layer_replication: tuple[tuple[int, int], ...] = Field(description="the ranges that stay, the end not included")


class HealRecord(Stated, Artefact):
    """heal.json. Parts that a method does not have are absent."""

    AGAIN: ClassVar[str] = "heal again"

    format: Literal["regrowth.heal/2"] = Field(default=HEAL, description="the file's format and version")
    method: Literal["qlora", "lora", "distill", "patch"] = Field(
        description="`qlora` (4 or 8 bits), `lora` (16), `distill` or `patch`"
    )
    tokens: int = Field(description="the budget spent, as tokens seen; of `patch`: fitted")
    loss_tokens: int | None = optional("of runs that train: how many of the tokens bore loss")
    loss_on: str | None = optional("of runs on chats: which of their tokens count in the loss, `answers` or `all`")
    mix: tuple[float, ...] | None = optional("the share of each text in the rows; absent if equal")
    chats: Chats | None = optional("of runs that train on chats")
    settings: dict[str, Any] = Field(description="everything that was set")
    held_out_loss: HeldOutLoss = Field(description="before and after, nats per token")
    held_out: HeldOutText = Field(description="what was measured")
    peak_memory: dict[str, int] = Field(
        description="`resident_bytes` of the process, `cuda_bytes` on a GPU; of several of either, the most of any"
    )
    base: dict[str, Any] = Field(description="identity of the model that was healed; a merge onto another is refused")
    provenance: dict[str, Any] = Field(
        description="besides what all have: `text` and `held_out` (lists where there were several), `domain_texts` by "
        "their names"
    )
    from_budget: tuple[str, ...] | None = optional(
        "of runs that train: settings that were not given and followed from the budget"
    )
    free_memory: int | None = optional(
        "of `--batch-size auto` or `--checkpointing auto`: bytes that were free when they were chosen"
    )
    curve: tuple[Point, ...] | None = optional("of runs that train")
    unquantised: Unquantised | None = optional("of runs that train, once they are compared with the cut")
    ended: Ended | None = optional("of runs that train")
    resumed: tuple[int, ...] | None = optional(
        "of runs that train: the steps at which the run was taken up from a checkpoint"
    )
    tokens_per_second: float | None = optional("of runs that train: without the first step after each start")
    training_seconds: float | None = optional("of runs that train: of all steps, without measuring and saving")
    adapted: tuple[str, ...] | None = optional("of runs that train: modules that carry the adapter")
    quantised: tuple[str, ...] | None = optional("of runs that train: modules held in 4 or 8 bits")
    kernels: str | None = optional("of runs that train: `liger` where its fused kernels computed the layers")
    teacher: dict[str, Any] | None = optional("of `distill` and `patch`: identity of the full model")
    own_tensors: tuple[str, ...] | None = optional(
        "of `distill`: tensors of the healed model that are not the full one's"
    )
    shared_prefix: int | None = optional("of `distill`: layers from the bottom that both ran as one")
    responses: Responses | None = optional("of `distill --teacher-data self`")
    prompts: dict[str, Any] | None = optional("of `distill --prompts`: the identity of their source")
    folds: tuple[FoldRecord, ...] | None = optional("of `patch`: one for each dropped block")
    choice_tokens: int | None = optional("of `patch`: the text that chose")
    won_back: float | None = optional(
        "of `patch`: (before - after) / (before - full) of `held_out_loss`; absent if the cut lost nothing"
    )
    cut: str | None = optional("of `patch`: the cut in words")
    seconds: float | None = optional("of `patch`")
    merge: MergeFacts | None = optional("in a merged model only")
    adapter_only: ShipFacts | None = optional("of `--adapter-only` only")
    earlier: tuple[HealRecord, ...] | None = optional(
        "heal.json of the base where that was itself patched or merged, oldest first"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        trained = self.method != "patch"
        parts = ("curve", "adapted", "quantised") if trained else ("folds",)
        settings = ("bits", "dtype", "length", "batch_size", "rank", "alpha", "targets") if trained else ()
        lacking = [name for name in parts if getattr(self, name) is None]
        lacking += [f"settings.{name}" for name in settings if name not in self.settings]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")
        return self

    def with_part(self, **parts: Any) -> Self:
        """The same record with another part, by its name; what it is made of is not checked."""
        return self.model_copy(update=parts)

    @property
    def computed_in(self) -> str:
        """The dtype of an adapter's training."""
        return str(self.settings["dtype"])

    @property
    def texts(self) -> tuple[str, ...]:
        """The sources that were healed on."""
        read = self.provenance["text"]
        return tuple(text["source"] for text in (read if isinstance(read, list) else [read]))


@dataclass(frozen=True)
class HealResult:
    """What a run, a patch or a merge left in `out`. `record` is its heal.json."""

    out: Path
    record: HealRecord

    @property
    def before(self) -> float:
        """Held-out loss of the base in the training precision, in nats per token."""
        return self.record.held_out_loss.before

    @property
    def after(self) -> float:
        """Held-out loss with the adapter that was kept, in nats per token."""
        return self.record.held_out_loss.after

    def to_json(self) -> dict[str, Any]:
        return self.record.to_json()
