"""Which model a folder holds. Five ways to tell, each reads no more than its purpose needs:

| function | reads | used for |
|---|---|---|
| `model_identity` | config.json, and the shards' headers | provenance; whether a scan, plan or costs fit a model |
| `base_identity` | also the first 4 KiB of each tensor | whether an adapter was trained on this base |
| `work_identity` | config.json, first 4 KiB of each tensor | whether kept work of a scan or an instrument goes on |
| `content_sha256` | every byte | answers that are kept; comparisons and sweeps |
| `file_identity` | small files; of large ones size, time and header | whether a recipe's stage runs again |
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prune.checkpoint.headers import Checkpoint, read_checkpoint, read_shard, stamp_of
from prune.checkpoint.source import Source
from prune.checkpoint.tensors import read_bytes
from prune.common.errors import RegrowthError
from prune.common.files.provenance import digest, file_sha256

# Files that settle what a model answers: weights, config, generation config, tokenizer, chat template, adapter.
_SUFFIXES = (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken")
# Our own records and indices, which change nothing that the model answers.
_RECORDS = ("prune_plan.json", "heal.json", "model.safetensors.index.json")
_SETTLED = 2.0  # seconds; a file younger than this may change again within the clock's grain, so it is hashed anew
_HASHED_WHOLE = 64 << 20  # bytes of a file; reading a 140 GB model to learn that it is unchanged would cost minutes
SAMPLE = 4096  # bytes from the start of each tensor


def content_sha256(folder: str | Path, *, memo: str | Path | None = None) -> str:
    """Hex SHA-256 over the names and whole contents of the files that settle what a model answers.

    Every byte of the weights counts: two checkpoints that differ in one weight differ here.

    Args:
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
        content = known.get(key)
        if content is None:
            began = time.time()
            content = file_sha256(path)
            if _state(path) == key and began - max(path.stat().st_mtime, path.stat().st_ctime) > _SETTLED:
                fresh[key] = content
        total.update(f"{name}\0{content}\n".encode())
    if memo is not None and fresh:
        _save(Path(memo), {**_load(memo), **fresh})
    return total.hexdigest()


def _state(path: Path) -> str:
    return "|".join(map(str, (os.path.realpath(path), *(stamp_of(path) or ()))))


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
    from prune.common.files.outputs import write_json

    with suppress(OSError, RegrowthError):  # without a memo files are read again, and nothing else
        write_json(memo, document, overwrite=True)


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
    identity["shards"] = {path.name: read_shard(path).header_sha256 for path in sorted(folder.glob("*.safetensors"))}
    return identity


def checkpoint_identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """The hashes of `model_identity` for headers that were read already, of the model's own shards alone."""
    shards = {shard.name: shard.header_sha256 for shard in checkpoint.shards}
    return {"config_sha256": file_sha256(checkpoint.folder / "config.json"), "shards": shards}


def base_identity(source: Source) -> dict[str, Any]:
    """`model_identity` of the base, and `weights_sha256`: over every tensor's name, dtype, shape and first 4 KiB.

    Sampling keeps it instantaneous on a model of any size, and still tells two checkpoints apart whose layers differ.
    """
    identity = model_identity(source.folder, name=source.name, commit=source.commit)
    return {**identity, "weights_sha256": weights_sha256(source.folder)}


def weights_sha256(folder: Path) -> str:
    """Hex SHA-256 over the tensors of a checkpoint, in the order of their names; see above."""
    tensors = {tensor.name: (shard, tensor) for shard in read_checkpoint(folder).shards for tensor in shard.tensors}
    total = hashlib.sha256()
    for name in sorted(tensors):
        shard, tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype}\0{tensor.shape}\0".encode())
        total.update(read_bytes(shard, tensor, SAMPLE))
    return total.hexdigest()


def work_identity(folder: Path, identity: Mapping[str, Any]) -> str:
    """One hash by which kept work of a run knows its model: of config.json and of every tensor.

    The headers in `identity`, which `model_identity` gave, would not do: a healed model has those of the cut one.
    """
    return digest([identity.get("config_sha256"), weights_sha256(folder)])


def file_identity(path: Path) -> str:
    """The hash of a file's content up to 64 MiB; of a larger file size, time, and header if it is safetensors."""
    state = path.stat()
    if state.st_size <= _HASHED_WHOLE:
        return file_sha256(path)
    facts: list[Any] = [state.st_size, state.st_mtime_ns]
    if path.suffix == ".safetensors":
        facts.append(read_shard(path).header_sha256)
    return digest(facts)
