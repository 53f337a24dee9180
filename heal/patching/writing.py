"""A patched model on the disk: the cut's checkpoint, with other values in the tensors that took a fold."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from heal.cards import patch_card
from heal.lineage import Lineage, carry, stored_as
from heal.patching.from_files import FromFiles
from heal.patching.passing import NoPatchError
from heal.patching.places import Place
from heal.patching.side_by_side import SideBySide
from heal.result import RECORD_FILE, HealRecord
from prune.checkpoint.headers import Checkpoint
from prune.checkpoint.tensors import read, write_over
from prune.common.files.outputs import write_text


def stored_names(models: SideBySide | FromFiles, lineage: Lineage, place: Place) -> list[str]:
    """Names of the place's weight, and of its bias where it has one, in the pruned checkpoint.

    Raises:
        NoPatchError: it stores them under other names than the model gives them.
    """
    prefix = next(name for name, module in models.model.named_modules() if module is models.layers)
    module = f"{prefix}.{lineage.plan.kept.index(place.layer)}.{place.path}"
    stored = {tensor.name for tensor in lineage.checkpoint.tensors()}
    names = []
    for part in ("weight", "bias") if place.bias else ("weight",):
        name = next((name for name in stored_as(module, part) if name in stored), None)
        if name is None:
            raise NoPatchError(f"{lineage.pruned.name} stores no tensor {module}.{part}; this layout takes no fold")
        names.append(name)
    return names


def changed_matrix(checkpoint: Checkpoint, place: Place, change: torch.Tensor, names: list[str]) -> torch.Tensor:
    """The checkpoint's own weight plus a change, (D, F), in float64, rounded as it will be stored.

    It is read from the files: the model may be run in fewer bits than they have.

    Args:
        names: of the weight, and of the bias where the place has one.
    """
    places = {tensor.name: (shard, tensor) for shard in checkpoint.shards for tensor in shard.tensors}
    parts = [read(*places[name]) for name in names]
    matrix = place.joined(parts[0], parts[1] if place.bias else None) + change.cpu()
    return matrix.to(parts[0].dtype).double()


def tensors_of(place: Place, matrix: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """A changed matrix, (D, F), as the checkpoint's tensors: its weight as it is stored, and its bias."""
    weight = matrix[:, :-1] if place.bias else matrix
    values = [weight.T if place.transposed else weight, *([matrix[:, -1]] if place.bias else [])]
    return dict(zip(names, values, strict=True))


def write_patched(lineage: Lineage, stage: Path, values: Mapping[str, torch.Tensor], record: HealRecord) -> None:
    """Copy the pruned checkpoint into `stage` shard by shard, and write `values` over their places in the copy.

    Args:
        values: tensor -> what it becomes, cast to the dtype in which it is stored.
        record: heal.json.
    """
    for shard in lineage.checkpoint.shards:
        copy = stage / shard.name
        shutil.copyfile(shard.path, copy)
        for tensor in shard.tensors:
            if tensor.name in values:
                write_over(copy, shard, tensor, values[tensor.name].cpu())
    carry(lineage.pruned.folder, stage)
    record.write(stage / RECORD_FILE)
    write_text(stage / "README.md", patch_card(record))
