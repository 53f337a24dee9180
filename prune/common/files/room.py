"""Room on a disk: how much there is, and errors of a place that takes no more, with what to do about it."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files there (ulimit -f)",
    errno.EROFS: "make it writable",
}
_CODE = re.compile(r"\(os error (\d+)\)")  # as libraries written in Rust say it, such as safetensors


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if os.path.exists(parent))


def free_bytes(path: Path) -> int:
    """Bytes that are free where a path is, or will be."""
    return shutil.disk_usage(existing(path)).free


def no_room(error: BaseException) -> tuple[str, str] | None:
    """Why nothing more can be written, and the remedy; None where the error is another one."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (said := _CODE.search(str(error))):
        code = int(said[1])
    return None if code not in _REMEDIES else (os.strerror(code), _REMEDIES[code])
