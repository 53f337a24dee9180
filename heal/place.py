"""Where a pruned model was cut, told by its prune_plan.json."""

from __future__ import annotations

from pathlib import Path

from prune.cutting.plan import PLAN_FILE, CutPlan


def first_after_cut(folder: Path) -> int | None:
    """The first layer (0-based, of the pruned model) that follows a gap: below it, the model is the unpruned one.

    Where a model was cut more than once, the lowest gap counts. The number of layers if only the last ones were
    dropped; None if the folder has no prune_plan.json.
    """
    if not (folder / PLAN_FILE).is_file():
        return None
    kept = CutPlan.read(folder / PLAN_FILE).original
    return next((place for place, layer in enumerate(kept) if place != layer), len(kept))
