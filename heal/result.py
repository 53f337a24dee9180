"""What healing gives back: its result, and what its heal.json says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "regrowth.heal/1"


@dataclass(frozen=True)
class HealResult:
    """What a run did. `document` is its heal.json."""

    out: Path
    document: dict[str, Any]

    @property
    def before(self) -> float:
        """Held-out loss of the base in the training precision, in nats per token."""
        return float(self.document["held_out_loss"]["before"])

    @property
    def after(self) -> float:
        """Held-out loss with the adapter that was kept, in nats per token."""
        return float(self.document["held_out_loss"]["after"])


def computed_in(document: dict[str, Any]) -> str:
    """The dtype of an adapter's training, by its heal.json; the first adapters knew none but bfloat16."""
    return str(document["settings"].get("dtype", "bfloat16"))
