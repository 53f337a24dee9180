"""Heads that are taken out of a model before it is asked: which, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from eval.settings import TOP, RunSettings
from prune.choosing.heads import Head, Heads
from prune.choosing.measured import check_measured_on
from prune.common.errors import UsageError


@dataclass(frozen=True)
class Removal:
    """Heads that are taken out.

    Attributes:
        heads: (layer, head) of each, 0-based, in rising order.
        by: the score of heads.json that says which are first.
        random: the seed that drew as many others of the same layers in their place; None for the first ones.
        file: heads.json.
    """

    heads: tuple[Head, ...]
    by: str
    random: int | None
    file: str

    @property
    def note(self) -> str:
        """In words."""
        of = f"the first by {self.by} score" if self.random is None else f"random ones, seed {self.random}"
        return f"asked without {len(self.heads)} of its heads ({of}, {self.file})"

    def to_json(self) -> dict[str, Any]:
        """For the record of a run."""
        return {**asdict(self), "heads": [list(head) for head in self.heads]}

    def apply(self, model: Any) -> None:
        """Take them out of a loaded model, for as long as it is there.

        Raises:
            CheckpointError: it has no such head.
            RegrowthError: its heads cannot be told.
        """
        from prune.instruments.ablation import take_out
        from prune.instruments.attention import find_sites

        take_out(find_sites(model), self.heads)


def plan_removal(settings: RunSettings, identity: Mapping[str, Any]) -> Removal | None:
    """Which heads are to go; None if none.

    Args:
        identity: of the model, as `model_identity` gives it.

    Raises:
        CheckpointError: the file is damaged, or of another model.
        UsageError: it has too few heads.
    """
    if settings.ablate_heads is None:
        return None
    from prune.instruments.ablation import draw_like

    measured = Heads.read(settings.ablate_heads)
    check_measured_on(measured, str(settings.ablate_heads), name=str(identity["model"]), identity=identity)
    count, by = settings.top or TOP, settings.heads_by or "write"
    ranked = measured.ranked(by)
    if count > len(ranked):
        raise UsageError(f"--top {count}: the model has {len(ranked)} heads; use fewer")
    chosen = ranked[:count]
    if settings.ablate_random is not None:
        if 2 * count > len(ranked):
            raise UsageError(
                f"--top {count} of {len(ranked)} heads leaves too few to draw as many random ones; use fewer"
            )
        chosen = draw_like(chosen, sorted(ranked), settings.ablate_random)
    return Removal(tuple(sorted(chosen)), by, settings.ablate_random, str(settings.ablate_heads))
