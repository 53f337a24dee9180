"""What a pruned checkpoint says about itself, checked against its own headers."""

from __future__ import annotations

from pathlib import Path

from prune.common.errors import CheckpointError
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.cutting.planning import open_subject


def inspect_cut(folder: str | Path) -> CutPlan:
    """The plan by which a checkpoint was cut: what was dropped, from what, by which numbers.

    Raises:
        CheckpointError: not a model, not made by `prune cut`, or its weights do not have the plan's layers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; name one that prune cut has written")
    if not (folder / PLAN_FILE).is_file():
        raise CheckpointError(f"{folder} holds no {PLAN_FILE}, so it was not written by prune cut")
    plan = CutPlan.read(folder / PLAN_FILE)
    subject = open_subject(folder)
    if subject.layers != len(plan.kept):
        raise CheckpointError(f"{folder} has {subject.layers} layers, but its {PLAN_FILE} keeps {len(plan.kept)}")
    return plan
