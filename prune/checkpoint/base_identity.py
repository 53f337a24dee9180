"""Which model an adapter was trained on: two cuts of one model have the same shapes, so bytes must tell."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from prune.checkpoint.headers import read_checkpoint
from prune.checkpoint.identity import model_identity
from prune.checkpoint.source import Source
from prune.checkpoint.tensors import read_bytes

SAMPLE = 4096  # bytes from the start of each tensor


def base_identity(source: Source) -> dict[str, Any]:
    """`model_identity` of the base, and `weights_sha256`: over every tensor's name, dtype, shape and first 4 KiB.

    Sampling keeps it instantaneous on a model of any size, and still tells two checkpoints apart whose layers differ.
    """
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    return {**identity, "weights_sha256": weights_sha256(source.folder)}


def weights_sha256(folder: Path) -> str:
    """Hex SHA-256 over the tensors of a checkpoint, in the order of their names; see above."""
    found = {tensor.name: (shard, tensor) for shard in read_checkpoint(folder).shards for tensor in shard.tensors}
    digest = hashlib.sha256()
    for name in sorted(found):
        shard, tensor = found[name]
        digest.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        digest.update(read_bytes(shard, tensor, SAMPLE))
    return digest.hexdigest()
