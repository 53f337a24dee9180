"""Which full model a pruned one was cut from: told by the hashes in its plan and by the bytes of its tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune.checkpoint.base_identity import SAMPLE
from prune.checkpoint.headers import Checkpoint
from prune.checkpoint.source import Source, locate
from prune.checkpoint.tensors import read_bytes
from prune.common.errors import CheckpointError
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.cutting.verify import inspect_cut
from prune.families.subject import Subject, open_subject


@dataclass(frozen=True)
class Lineage:
    """A pruned model, the full one it was cut from, and the plan of the cut."""

    plan: CutPlan
    pruned: Source
    full: Source
    checkpoint: Checkpoint  # of the pruned model


def trace(
    model: str | Path, teacher: str | Path | None = None, *, revision: str | None = None, untouched: bool = True
) -> Lineage:
    """Find the source of a cut, and check that it is.

    Args:
        model: the pruned model: a folder or hub id, with prune_plan.json.
        teacher: the full model; where the plan says it was, if None.
        revision: of `model` on the hub.
        untouched: also check that the kept tensors are still the source's (the first 4 KiB of each): nothing was
            healed since.

    Raises:
        CheckpointError: no plan, a teacher that is not the source of the cut, or a model that was healed since.
    """
    pruned = locate(model, revision=revision)
    plan = inspect_cut(pruned.folder)
    try:
        full = locate(teacher or plan.model, revision=plan.commit if str(teacher or plan.model) == plan.model else None)
    except CheckpointError as error:
        if teacher is not None:
            raise
        raise CheckpointError(
            f"the source that {PLAN_FILE} names is not there ({error}); name it with --teacher"
        ) from None
    subject = open_subject(full.folder)
    found = subject.identity()
    for key in ("config_sha256", "shards"):
        if found[key] != plan.identity.get(key):
            raise CheckpointError(
                f"{full.name} is not the model that {pruned.name} was cut from (its {key} differs from the one in "
                f"{PLAN_FILE}, which names {plan.model}); name that one with --teacher"
            )
    checkpoint = open_subject(pruned.folder).checkpoint
    if untouched:
        _check_untouched(subject, plan, checkpoint, full.name, pruned.name)
    return Lineage(plan, pruned, full, checkpoint)


def _check_untouched(subject: Subject, plan: CutPlan, pruned: Checkpoint, full_name: str, pruned_name: str) -> None:
    stored = {tensor.name: (shard, tensor) for shard in pruned.shards for tensor in shard.tensors}
    rename = subject.renaming(plan.kept)
    for shard in subject.checkpoint.shards:
        for tensor in shard.tensors:
            name = rename(tensor.name)
            if name is None:
                continue
            if name not in stored or read_bytes(shard, tensor, SAMPLE) != read_bytes(*stored[name], SAMPLE):
                raise CheckpointError(
                    f"{pruned_name}: {name} is not {tensor.name} of {full_name}: it was healed since the cut, or cut "
                    "from other weights; a patch is solved for a cut as prune cut left it"
                )
