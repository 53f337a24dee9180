"""In which tensors a pruned model differs from the full one: those that a patch or an earlier healing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heal.lineage import Lineage
from prune.checkpoint.headers import Shard, Tensor
from prune.common.errors import CheckpointError
from prune.common.provenance import read_artefact
from prune.common.terminal import progress
from prune.families.subject import open_subject

_PIECE = 1 << 22  # bytes compared at a time


def own_tensors(lineage: Lineage, *, shown: bool = True) -> dict[str, tuple[Shard, Tensor]]:
    """Tensors of the pruned model, by their names in it, whose bytes are not the full model's.

    Raises:
        CheckpointError: some differ that no heal.json names as changed by healing, or in more than their values: the
            full model is not the source of the cut.
    """
    pruned, full = lineage.pruned, lineage.full
    subject = open_subject(full.folder)
    stored = {tensor.name: (shard, tensor) for shard in lineage.checkpoint.shards for tensor in shard.tensors}
    rename = subject.renaming(lineage.plan.kept)
    own = {}
    size = sum(tensor.size for _, tensor in stored.values())
    with progress("Comparing with the full model (MB)", size / 1e6, shown=shown) as bar:
        for shard in subject.checkpoint.shards:
            for tensor in shard.tensors:
                name = rename(tensor.name)
                if name is None:
                    continue
                if name not in stored:
                    raise CheckpointError(f"{pruned.name} lacks the tensor {name}")
                other = stored[name][1]
                if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
                    raise CheckpointError(
                        f"{pruned.name}: {name} is {other.dtype} {other.shape}, and {tensor.dtype} {tensor.shape} "
                        f"in {full.name}"
                    )
                if not _alike((shard, tensor), stored[name]):
                    own[name] = stored[name]
                bar.advance(tensor.size / 1e6)
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
    path = folder / "heal.json"
    if not path.is_file():
        return set()
    document = read_artefact(path, "regrowth.heal/1")
    try:
        return set().union(*map(_changed, [*document.get("earlier", []), document]))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} does not say which tensors healing changed ({error!r})") from None


def _changed(document: dict[str, Any]) -> set[str]:
    if document["method"] == "patch":
        return {name for fold in document["folds"] for name in fold["tensors"]}
    kept = document["quantised"] if document["merge"]["base"] == "dequantised" else []
    modules = [*document["adapted"], *kept]
    return {f"{name}.weight" for module in modules for name in (module, module.partition(".")[2])}  # see `plan_merge`


def _alike(one: tuple[Shard, Tensor], other: tuple[Shard, Tensor]) -> bool:
    with one[0].path.open("rb") as first, other[0].path.open("rb") as second:
        for file, (shard, tensor) in ((first, one), (second, other)):
            file.seek(shard.data_start + tensor.start)
        left = one[1].size
        while left:
            piece = first.read(min(_PIECE, left))
            if not piece or piece != second.read(min(_PIECE, left)):
                return False
            left -= len(piece)
    return True
