"""In which tensors a pruned model differs from the full one: those that a patch or an earlier healing has changed."""

from __future__ import annotations

from heal.lineage import Lineage
from prune.checkpoint import Shard, Tensor
from prune.errors import CheckpointError
from prune.planning import open_subject
from prune.terminal import progress

_PIECE = 1 << 22  # bytes compared at a time


def own_tensors(lineage: Lineage, *, shown: bool = True) -> dict[str, tuple[Shard, Tensor]]:
    """Tensors of the pruned model, by their names in it, whose bytes are not the full model's.

    Raises:
        CheckpointError: some differ and no heal.json says that healing changed them, or in more than their values:
            the full model is not the source of the cut.
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
    if own and not (pruned.folder / "heal.json").is_file():
        raise CheckpointError(
            f"{full.name} is not what {pruned.name} was cut from: {len(own)} tensors differ "
            f"(such as {next(iter(own))}), and no heal.json says that healing changed them"
        )
    return own


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
