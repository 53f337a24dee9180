"""What was cut from what: the full model of a pruned one, the first layer after the cut, and what differs since."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from heal.result import RECORD_FILE, HealRecord
from prune.checkpoint.companions import copy_companions
from prune.checkpoint.headers import INDEX, Checkpoint, Shard, Tensor, inside
from prune.checkpoint.identity import SAMPLE
from prune.checkpoint.source import Source, locate
from prune.checkpoint.tensors import read_bytes, same_bytes
from prune.common.errors import CheckpointError
from prune.common.screen.terminal import progress
from prune.cutting.plan import PLAN_FILE, CutPlan
from prune.cutting.verify import open_cut
from prune.families.subject import Subject, open_subject

_CARRIED = ("config.json", INDEX, PLAN_FILE, "scan.json")  # beside what copy_companions takes


@dataclass(frozen=True)
class Lineage:
    """A pruned model, the full one it was cut from, and the plan of the cut."""

    plan: CutPlan
    pruned: Source
    full: Source
    checkpoint: Checkpoint  # of the pruned model
    subject: Subject  # the full model's headers


def trace(
    model: str | Path, teacher: str | Path | None = None, *, revision: str | None = None, untouched: str | None = None
) -> Lineage:
    """Find the source of a cut, and check that it is.

    Args:
        model: the pruned model: a folder or hub id, with prune_plan.json.
        teacher: the full model; where the plan says it was, if None.
        revision: of `model` on the hub.
        untouched: also check that the kept tensors are still the source's (the first 4 KiB of each): nothing was
            healed since. Says why that must be, for the message.

    Raises:
        CheckpointError: no plan, a teacher that is not the source of the cut, or a model that was healed since.
    """
    pruned = locate(model, revision=revision)
    plan, cut = open_cut(pruned.folder)
    full = full_source(plan, teacher)
    subject = open_subject(full.folder)
    for key, value in subject.identity().items():
        if value != plan.identity[key]:
            raise CheckpointError(
                f"{full.name} is not the model that {pruned.name} was cut from (its {key} differs from the one in "
                f"{PLAN_FILE}, which names {plan.model}); give that one with --teacher"
            )
    lineage = Lineage(plan, pruned, full, cut.checkpoint, subject)
    if untouched is not None:
        _check_untouched(lineage, untouched)
    return lineage


def full_source(plan: CutPlan, teacher: str | Path | None = None) -> Source:
    """Where the full model of a cut is: `teacher`, or where the plan says it was, if None.

    Raises:
        CheckpointError: it is not there.
    """
    name = teacher or plan.model
    try:
        return locate(name, revision=plan.commit if str(name) == plan.model else None)
    except CheckpointError as error:
        if teacher is not None:
            raise
        raise CheckpointError(
            f"the source that {PLAN_FILE} names is not there ({error}); give it with --teacher"
        ) from None


def _check_untouched(lineage: Lineage, why: str) -> None:
    for pair in lineage.subject.pairs(lineage.plan.kept, lineage.checkpoint):
        if pair.pruned is None or read_bytes(*pair.source, SAMPLE) != read_bytes(*pair.pruned, SAMPLE):
            raise CheckpointError(
                f"{lineage.pruned.name}: {pair.name} is not {pair.source[1].name} of {lineage.full.name}: it was "
                f"healed since the cut, or cut from other weights; {why}"
            )


def first_after_cut(folder: Path) -> int | None:
    """The first layer (0-based, of the pruned model) that follows a gap: below it, the model is the unpruned one.

    Where a model was cut more than once, the lowest gap counts. The number of layers if only the last ones were
    dropped; None if the folder has no prune_plan.json.
    """
    if not (folder / PLAN_FILE).is_file():
        return None
    kept = CutPlan.read(folder / PLAN_FILE).original
    return next((place for place, layer in enumerate(kept) if place != layer), len(kept))


def carry(source: Path, stage: Path) -> None:
    """Copy config, index, plan of the cut, tokenizer and the like of the model in `source` to the folder `stage`."""
    copy_companions(source, stage, code=False)
    for name in _CARRIED:
        if (source / name).is_file():
            shutil.copyfile(inside(source, name), stage / name)


def own_tensors(lineage: Lineage, *, shown: bool = True) -> dict[str, tuple[Shard, Tensor]]:
    """Tensors of the pruned model, by their names in it, whose bytes are not the full model's.

    Raises:
        CheckpointError: some differ that no heal.json names as changed by healing, or in more than their values: the
            full model is not the source of the cut.
    """
    pruned, full = lineage.pruned, lineage.full
    own = {}
    with progress("Comparing with the full model (MB)", lineage.checkpoint.size / 1e6, shown=shown) as bar:
        for pair in lineage.subject.pairs(lineage.plan.kept, lineage.checkpoint):
            if pair.pruned is None:
                raise CheckpointError(f"{pruned.name} lacks the tensor {pair.name}")
            ours, theirs = pair.source[1], pair.pruned[1]
            if not pair.alike:
                raise CheckpointError(
                    f"{pruned.name}: {pair.name} is {theirs.dtype} {theirs.shape}, and {ours.dtype} {ours.shape} "
                    f"in {full.name}"
                )
            if not same_bytes(pair.source, pair.pruned):
                own[pair.name] = pair.pruned
            bar.advance(ours.size / 1e6)
    strange = own.keys() - healed_tensors(pruned.folder) if own else ()
    if strange:
        raise CheckpointError(
            f"{full.name} is not what {pruned.name} was cut from: {len(strange)} tensors differ "
            f"(such as {min(strange)}), and no heal.json says that healing changed them"
        )
    return own


def healed_tensors(folder: Path) -> set[str]:
    """Names of the tensors that healing changed in a model, by its heal.json and the earlier ones in that.

    A patch changes the projections of its folds; a merge those with an adapter and, on a dequantised base, all that
    were quantised. Embeddings, norms and the head are never among them.

    Raises:
        CheckpointError: there is a heal.json, and it cannot be read.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return set()
    record = HealRecord.read(path)
    changed: set[str] = set()
    for healed in (*(record.earlier or ()), record):
        if healed.method != "patch" and healed.merge is None:
            raise CheckpointError(f"{path} is of an adapter, and does not say which tensors healing changed")
        changed |= _changed(healed)
    return changed


def _changed(record: HealRecord) -> set[str]:
    if record.method == "patch":
        return {name for fold in record.folds or () for name in fold.tensors}
    dequantised = record.merge is not None and record.merge.base == "dequantised"
    modules = [*(record.adapted or ()), *((record.quantised or ()) if dequantised else ())]
    return {name for module in modules for name in stored_as(module, "weight")}


def stored_as(module: str, part: str) -> tuple[str, str]:
    """The names that a checkpoint may store a tensor of a module under: older ones lack the name's first part."""
    return f"{module}.{part}", f"{module.partition('.')[2]}.{part}"
