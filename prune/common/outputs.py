"""Outputs that appear whole or not at all: a temporary sibling, fsync, then one rename.

A run holds a lock (flock) on its temporary folder, which the kernel releases however the run ends.
A later run that finds a temporary folder whose lock is free knows it for debris and clears it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError

_AT_FDCWD = -100
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2


def check_free(out: str | Path, *, overwrite: bool = False) -> Path:
    """Return `out` as a path, or raise where something already stands there and may not be replaced."""
    out = Path(out)
    if out.exists() and not overwrite:
        if out.is_dir() and not any(out.iterdir()):
            return out
        raise RegrowthError(f"{out} already exists; name another --out or add --overwrite")
    if out.is_symlink() and not out.exists():
        raise RegrowthError(f"{out} is a dangling link; remove it or name another --out")
    return out


@contextmanager
def staged_directory(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a fresh folder beside `out`; when the block ends well, it becomes `out` in one rename.

    If the block raises, nothing is left. A killed run leaves only a hidden sibling, which the next run clears.

    Raises:
        RegrowthError: `out` exists (and not `overwrite`), or another run finished it first.
    """
    out = check_free(out, overwrite=overwrite)
    if overwrite and out.exists() and not out.is_dir():
        raise RegrowthError(f"{out} is a file, not a folder; name another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_debris(out)
    stage, lock = _make_stage(out)
    try:
        stage.chmod(0o777 & ~_umask())
        yield stage
        _sync_tree(stage)
        _publish(stage, out, overwrite=overwrite)
        _sync(out.parent)
    finally:
        os.close(lock)
        shutil.rmtree(stage, ignore_errors=True)


def write_text(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file whole or not at all; refuses to replace one without `overwrite`."""
    write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def write_bytes(path: str | Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file whole or not at all; refuses to replace one without `overwrite`."""
    path = check_free(path, overwrite=overwrite)
    if path.is_dir():
        raise RegrowthError(f"{path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        _rename(name, path, 0 if overwrite else _RENAME_NOREPLACE)
        _sync(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: str | Path, document: Any, *, overwrite: bool = False) -> None:
    """Write JSON for people and machines alike; NaN and infinity are refused, they are no numbers."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", overwrite=overwrite)


def _prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _make_stage(out: Path) -> tuple[Path, int]:
    """A fresh hidden sibling of `out`, and the descriptor that holds its lock.

    Until it is locked, a rival that clears debris may take it for a dead run's and remove it. Then another is made.
    """
    while True:
        stage = Path(tempfile.mkdtemp(prefix=_prefix(out), dir=out.parent))
        try:
            lock = os.open(stage, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stage.exists():
            return stage, lock
        os.close(lock)


def _clear_debris(out: Path) -> None:
    for left in out.parent.glob(_prefix(out) + "*"):
        if not left.is_dir() or left.is_symlink():
            continue
        try:
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its run is alive
        else:
            shutil.rmtree(left, ignore_errors=True)
        finally:
            os.close(handle)


def _publish(stage: Path, out: Path, *, overwrite: bool) -> None:
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    try:
        if overwrite and out.exists():
            _rename(stage, out, _RENAME_EXCHANGE)  # `stage` now holds what is replaced, and is removed
        else:
            _rename(stage, out, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise RegrowthError(f"{out} was made by another run meanwhile; that one is kept") from error
        raise


def _rename(source: str | Path, target: str | Path, flags: int) -> None:
    """renameat2(2): never silently replaces, and can swap. Falls back where the file system lacks it."""
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, "renameat2", None)
    if flags and function is not None:
        done = function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags))
        if done == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(target))
    if flags == _RENAME_NOREPLACE and os.path.lexists(target):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if flags == _RENAME_EXCHANGE:
        aside = Path(tempfile.mkdtemp(prefix=_prefix(Path(target)), dir=Path(target).parent)) / "replaced"
        os.rename(target, aside)
        os.rename(source, target)
        shutil.rmtree(aside.parent, ignore_errors=True)
        return
    os.rename(source, target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            _sync(Path(place) / name)
        _sync(Path(place))
