"""What `prune write` has written, in numbers: the document that `--json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from prune.common.files.artefact import Artefact, Part

if TYPE_CHECKING:
    from prune.common.screen.tables import Table


class WrittenPart(Part):
    """The rows of one kind."""

    kind: Literal["fast", "slow", "document"] = Field(
        description="asked as it stands, asked for a chain of thought, or a document that the model goes on from"
    )
    rows: int = Field(description="how many")
    tokens: int = Field(description="of their prompts and answers")
    answer_tokens: int = Field(description="of their answers")
    finished: int = Field(description="answers that the model ended itself")


class Written(Artefact):
    """A text that a model wrote itself, in numbers."""

    AGAIN: ClassVar[str] = "write the text again with `prune write`"

    format: Literal["regrowth.written/1"] = "regrowth.written/1"
    model: str = Field(description="the model that wrote, as named")
    out: str = Field(description="the file that the text is in")
    rows: int = Field(description="answers written")
    tokens: int = Field(description="of prompts and answers, a BOS where the tokenizer has one, and an EOS")
    kinds: tuple[WrittenPart, ...] = Field(description="the rows by how they were asked")
    rounds: int = Field(description="how often the prompts were gone through, the last time as far as needed")
    too_long: int = Field(description="prompts passed over for their length, in the first round")
    empty: int = Field(description="prompts passed over because they ask nothing or have under 8 tokens, likewise")
    sampling: dict[str, float] | None = Field(description="how tokens were drawn; null: always the likeliest")
    chat_template: bool = Field(description="whether prompts were put in the tokenizer's chat template")
    batch_size: int = Field(description="prompts at a time")
    provenance: dict[str, Any] = Field(description="model, prompts, settings, dtype, device, versions, command")

    def table(self) -> Table:
        """The kinds, for a terminal."""
        from prune.common.screen.tables import Table

        rows = [
            (
                part.kind,
                f"{part.rows:,}",
                f"{part.tokens:,}",
                f"{part.answer_tokens:,}",
                f"{part.finished / part.rows:.0%}",
            )
            for part in self.kinds
        ]
        passed = self.too_long + self.empty
        caption = f"{passed} prompts were passed over: {self.too_long} too long, {self.empty} empty." if passed else ""
        if self.rounds > 1:
            caption = f"The prompts were gone through {self.rounds} times. {caption}".rstrip()
        head = ("asked", "rows", "tokens", "of answers", "ended by itself")
        return Table.of(f"{self.model} wrote {self.tokens:,} tokens", head, rows, words=["asked"], caption=caption)
