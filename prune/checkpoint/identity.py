"""Which model a folder holds: told by its headers, or by the whole content of its files."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from prune.checkpoint.headers import HEADER_LIMIT, read_checkpoint
from prune.checkpoint.source import Source
from prune.checkpoint.tensors import read_bytes
from prune.common.errors import CheckpointError
from prune.common.provenance import file_sha256

# Files that settle what a model answers: weights, config, generation config, tokenizer, chat template, adapter.
_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken")
# Our own records and indices, which change nothing that the model answers.
_RECORDS = ("prune_plan.json", "heal.json", "model.safetensors.index.json")
_SETTLED = 2.0  # seconds; a file younger than this may change again within the clock's grain, so it is hashed anew


SAMPLE = 4096  # bytes from the start of each tensor


def content_sha256(folder: str | Path, *, memo: str | Path | None = None) -> str:
    """Hex SHA-256 over the names and whole contents of the files that settle what a model answers.

    Every byte of the weights counts: two checkpoints that differ in one weight differ here.

    Args:
        folder: a model folder.
        memo: a JSON file to remember hashes in, so that a file is read once: a hash counts for a file as long as its
            path, size, inode, time of modification and time of change (which no copy or `touch` can set) stay.
    """
    folder = Path(folder)
    known = _load(memo)
    fresh = {}
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES and p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in _RECORDS or any(part.startswith(".") for part in Path(name).parts):
            continue
        key = _state(path)
        found = known.get(key)
        if found is None:
            began = time.time()
            found = file_sha256(path)
            if _state(path) == key and began - max(path.stat().st_mtime, path.stat().st_ctime) > _SETTLED:
                fresh[key] = found
        total.update(f"{name}\0{found}\n".encode())
    if memo is not None and fresh:
        _save(Path(memo), {**_load(memo), **fresh})
    return total.hexdigest()


def _state(path: Path) -> str:
    found = path.stat()
    parts = (os.path.realpath(path), found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    return "|".join(map(str, parts))


def _load(memo: str | Path | None) -> dict[str, str]:
    if memo is None:
        return {}
    try:
        document = json.loads(Path(memo).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # a memo spares time and holds nothing else: without it files are read again
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(value, str) and len(value) == 64}


def _save(memo: Path, document: dict[str, str]) -> None:
    from prune.common.outputs import write_json

    with suppress(OSError):  # without a memo files are read again, and nothing else
        write_json(memo, document, overwrite=True)


def header_sha256(shard: str | Path) -> str:
    """Hex SHA-256 of a safetensors file's header (length prefix and JSON): shapes, names and places, no data."""
    with open(shard, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= HEADER_LIMIT:
            raise CheckpointError(f"{shard} is not a safetensors file (its header length is impossible)")
        header = file.read(length)
    if len(header) != length:
        raise CheckpointError(f"{shard} is cut short: its header ends beyond the file")
    return hashlib.sha256(prefix + header).hexdigest()


def model_identity(folder: str | Path, *, name: str | None = None, commit: str | None = None) -> dict[str, Any]:
    """Identity of a local checkpoint: `{"model", "commit"?, "config_sha256", "shards": {file: header sha256}}`.

    Args:
        folder: a folder with config.json and safetensors shards (or a hub cache snapshot of one).
        name: what the user called it (hub id or path); the folder's own name if None.
        commit: hub commit, where it came from a hub.
    """
    folder = Path(folder)
    identity: dict[str, Any] = {"model": name or folder.name}
    if commit:
        identity["commit"] = commit
    config = folder / "config.json"
    if config.is_file():
        identity["config_sha256"] = file_sha256(config)
    identity["shards"] = {p.name: header_sha256(p) for p in sorted(folder.glob("*.safetensors"))}
    return identity


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
