"""What stands for a file's or folder's content, so that a stage whose inputs did not change is not run again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from prune.checkpoint.identity import file_identity


def identity(path: str | Path) -> str | None:
    """A digest of a file or folder; None where nothing is there.

    A file counts as `prune.checkpoint.identity.file_identity` says.
    """
    path = Path(path)
    if path.is_file():
        return file_identity(path)
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)}\0{file_identity(file)}\0".encode())
    return digest.hexdigest()
