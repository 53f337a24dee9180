"""finalists.json: what a few thousand tokens of healing made of each finalist of a check, and which cut was taken."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from prune.common.files.artefact import Artefact, Part
from prune.common.layers import spell_layers
from prune.common.screen.tables import Table

FINALISTS_FILE = "finalists.json"
TOKENS = "4k"  # that each finalist is healed on, if not told
FINALISTS = 3  # that are healed, if not told


class HealedFinalist(Part):
    """One finalist of the check, healed."""

    dropped: tuple[int, ...] = Field(description="layers that go, 0-based")
    kl: float = Field(description="KL to the full model in the check, nats a token")
    kl_stderr: float = Field(description="its standard error")
    before: float | None = Field(default=None, description="held-out loss of the cut, nats a token; absent: not healed")
    after: float | None = Field(default=None, description="that after the short healing")


class Finalists(Artefact):
    """The finalists of a check, healed, in the check's order."""

    AGAIN: ClassVar[str] = "choose again with `heal finalists`"

    format: Literal["regrowth.finalists/1"] = "regrowth.finalists/1"
    model: str = Field(description="the full model")
    finalists: tuple[HealedFinalist, ...] = Field(description="the one of least KL first")
    checked: tuple[int, ...] = Field(description="layers that the check alone would drop")
    chosen: tuple[int, ...] = Field(description="layers that the cut drops: those of least loss after the healing")
    tokens: int = Field(description="each finalist was healed on")
    settings: dict[str, Any] = Field(description="of the short healing")
    provenance: dict[str, Any] = Field(description="the text, versions, command")

    @property
    def changed(self) -> bool:
        """Whether healing takes another cut than the check."""
        return self.checked != self.chosen

    def words(self) -> str:
        """The choice in one sentence."""
        taken, healed = spell_layers(self.chosen), f"after {self.tokens:,} tokens of healing"
        if len(self.finalists) == 1:
            return f"Without layers {taken}: only one finalist was taken, so nothing was healed."
        if not self.changed:
            return f"Without layers {taken}, as the check had chosen: its loss is the least {healed} too."
        after = {one.dropped: one.after for one in self.finalists if one.after is not None}
        less = after[self.checked] - after[self.chosen]
        return (
            f"Without layers {taken}, not {spell_layers(self.checked)} as the check had chosen: {healed} its loss is "
            f"{less:.3f} nats a token less."
        )

    def table(self) -> Table:
        """Each finalist before and after."""
        rows = [
            [
                spell_layers(one.dropped),
                f"{one.kl:.3f} ± {one.kl_stderr:.3f}",
                *("" if loss is None else f"{loss:.3f}" for loss in (one.before, one.after)),
                "taken" if one.dropped == self.chosen else "the check's" if one.dropped == self.checked else "",
            ]
            for one in self.finalists
        ]
        head = ("layers dropped", "KL in the check", "held-out loss", "healed", "")
        return Table.of("Finalists, losses in nats per token", head, rows, words=("",), caption=self.words())
