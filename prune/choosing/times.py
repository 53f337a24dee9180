"""Seconds that a model's layers take on a device: time.json, such as `prune time` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prune.common.files.artefact import Artefact, Part
from prune.common.screen.tables import Cell, Table


class Span(Part):
    """Seconds over the rounds: their median, and the least and the most."""

    median: float = Field(gt=0, description="seconds, the median")
    least: float = Field(gt=0, description="of the fastest round")
    most: float = Field(gt=0, description="of the slowest round")


class KindTimes(Part):
    """What a layer of one kind takes: layers whose cache and whose weights are of the same shapes."""

    name: str = Field(description="the kind, by what it keeps of the tokens")
    layers: tuple[int, ...] = Field(min_length=1, description="layers of that kind, 0-based")
    prefill: Span = Field(description="for all sequences' prompts, in one pass")
    decode: Span = Field(description="for one new token of each sequence behind its context")


class Times(Artefact):
    """What each layer takes to read a prompt (prefill) and to write a token (decode), and what stands outside them."""

    AGAIN: ClassVar[str] = "time again with `prune time`"

    format: Literal["regrowth.time/1"] = "regrowth.time/1"
    layers: int = Field(ge=1, description="L of the model that was timed")
    context: int = Field(ge=1, description="tokens of each sequence, as asked")
    prompt: int = Field(
        ge=1,
        description="tokens of each prompt: the context, or less where the new tokens would not fit behind it",
    )
    sequences: int = Field(ge=1, description="prompts at once")
    new_tokens: int = Field(ge=1, description="tokens that were written in each round")
    rounds: int = Field(ge=1, description="rounds, each of one prefill and then the new tokens")
    device: str = Field(description="what it ran on, by name")
    dtype: str = Field(description="what it computed in")
    whole: bool = Field(
        description="the whole model ran; false: it does not fit, and a model of one layer of each kind stood in, with "
        "random weights"
    )
    kinds: tuple[KindTimes, ...] = Field(min_length=1, description="kinds of layers")
    outside_prefill: Span = Field(description="seconds of embeddings, masks, final norm and head in prefill")
    outside_decode: Span = Field(description="the same for one new token")
    provenance: dict[str, Any] = Field(description="model, versions, command")

    @model_validator(mode="after")
    def _every_layer_once(self) -> Self:
        if sorted(layer for kind in self.kinds for layer in kind.layers) != list(range(self.layers)):
            raise ValueError("the kinds do not name every layer once")
        return self

    def rates(self, kept: Sequence[int]) -> tuple[float, float]:
        """Tokens a second, of all sequences together, that a model of these layers (0-based) reads and writes."""
        stay = set(kept)
        read, written = self.outside_prefill.median, self.outside_decode.median
        for kind in self.kinds:
            count = sum(layer in stay for layer in kind.layers)
            read += count * kind.prefill.median
            written += count * kind.decode.median
        return self.sequences * self.prompt / read, self.sequences / written

    def table(self) -> Table:
        """A line for each kind, and one for what stands outside the layers."""
        rows: list[list[str | Cell]] = [
            [f"{kind.name} ({len(kind.layers)})", _cell(kind.prefill), _cell(kind.decode)] for kind in self.kinds
        ]
        rows.append(["embeddings and head", _cell(self.outside_prefill), _cell(self.outside_decode)])
        read, written = self.rates(range(self.layers))
        rows.append(["the model, tokens/s", f"{read:,.1f}", f"{written:,.2f}"])
        title = f"Milliseconds a layer: {self.sequences} x {self.prompt:,} tokens on {self.device}, {self.dtype}"
        return Table.of(title, ["layers of a kind", "prefill, ms", "decode, ms"], rows, words=["layers of a kind"])


def _cell(span: Span) -> Cell:
    return Cell(f"{1e3 * span.median:,.3g}", f"[{1e3 * span.least:,.3g}, {1e3 * span.most:,.3g}]")
