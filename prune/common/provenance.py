"""Where a number or a checkpoint came from: versions, command, and what stands for a model's identity."""

from __future__ import annotations

import hashlib
import json
import shlex
import struct
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from prune.checkpoint.headers import HEADER_LIMIT
from prune.common.errors import CheckpointError


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, read without importing any of it."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("regrowth", "torch", "transformers", "peft", "bitsandbytes", "lm-eval", "safetensors", "vllm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


_COMMANDS = {"eval": "evaluate", "recipes": "recipe"}  # rooms whose command has another name


def command_line() -> str:
    """The command as the user would type it, quoted for a shell, without the folder of the program."""
    program = Path(sys.argv[0])
    name = program.name
    if name == "__main__.py":  # python -m prune
        name = _COMMANDS.get(program.parent.name, program.parent.name)
    return shlex.join([name, *sys.argv[1:]])


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a whole file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def provenance(**facts: Any) -> dict[str, Any]:
    """The provenance block of an artefact: the caller's facts (model, text, seed, ...), versions and command."""
    return {**facts, "versions": versions(), "command": command_line()}


def read_artefact(path: str | Path, kind: str) -> dict[str, Any]:
    """Read one of our JSON artefacts and check its `format` (`kind` such as "regrowth.scan/1").

    Raises:
        CheckpointError: missing, not JSON, or another format.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != kind:
        raise CheckpointError(f"{path} is not a {kind} file (its format is {found!r})")
    return document
