"""Where a number came from: versions, the command, and what an artefact says."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from prune.common.errors import CheckpointError
from prune.common.programs import PROGRAMS


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, read without importing any of it."""
    installed = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("regrowth", "torch", "transformers", "peft", "bitsandbytes", "lm-eval", "safetensors", "vllm"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def command_line() -> str:
    """The command as the user would type it, quoted for a shell, without the folder of the program."""
    program = Path(sys.argv[0])
    name = program.name
    if name == "__main__.py":  # python -m prune
        package = program.parent.name
        name = next((command for command, one in PROGRAMS.items() if one == package), package)
    return shlex.join([name, *sys.argv[1:]])


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a whole file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Hex SHA-256 of JSON with sorted keys; what JSON does not know counts as its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def provenance(**facts: Any) -> dict[str, Any]:
    """The provenance block of an artefact: the caller's facts (model, text, seed, ...), versions and command."""
    return {**facts, "versions": versions(), "command": command_line()}


def read_artefact(path: str | Path, kind: str, *, again: str = "make it again") -> dict[str, Any]:
    """Read one of our JSON artefacts and check its `format` (`kind` such as "regrowth.scan/2").

    Args:
        again: what to do about a file of another version, for the message.

    Raises:
        CheckpointError: missing, not JSON, or of another format or version.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from error
    written = document.get("format") if isinstance(document, dict) else None
    if written == kind:
        return document
    if isinstance(written, str) and written.partition("/")[0] == kind.partition("/")[0]:
        provenance = document.get("provenance")
        version = provenance.get("versions", {}).get("regrowth") if isinstance(provenance, dict) else None
        by = f" (by regrowth {version})" if isinstance(version, str) else ""
        raise CheckpointError(f"{path} was written as {written}{by}; this version reads {kind}: {again}")
    raise CheckpointError(f"{path} is not a {kind} file (its format is {written!r})")
