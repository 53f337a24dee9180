"""What stands for a file's or folder's content, so that a stage whose inputs did not change is not run again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from prune.checkpoint.identity import header_sha256
from prune.common.provenance import digest, file_sha256

_HASHED_WHOLE = 64 * 2**20  # bytes; reading a 140 GB model to learn that it is unchanged would cost minutes


def identity(path: str | Path) -> str | None:
    """A digest of a file or folder; None where nothing is there.

    Files up to 64 MiB count by content. Larger ones count by size and time of change, and a safetensors
    file also by its header.
    """
    path = Path(path)
    if path.is_file():
        return _file_identity(path)
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for one in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{one.relative_to(path)}\0{_file_identity(one)}\0".encode())
    return digest.hexdigest()


def _file_identity(path: Path) -> str:
    stat = path.stat()
    if stat.st_size <= _HASHED_WHOLE:
        return file_sha256(path)
    facts: list[Any] = [stat.st_size, stat.st_mtime_ns]
    if path.suffix == ".safetensors":
        facts.append(header_sha256(path))
    return digest(facts)
