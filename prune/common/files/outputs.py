"""Outputs that appear whole or not at all: a temporary sibling, fsync, then one rename.

A run holds a lock (flock) on its temporary folder, which the kernel releases however the run ends.
A later run that finds a temporary folder whose lock is free knows it for debris and clears it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError, UsageError
from prune.common.files.replacing import check_replaceable
from prune.common.files.room import existing, no_room

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


def free_file(out: str | Path, *, overwrite: bool = False, option: str = "--out") -> Path:
    """Return `out` as a path, or raise where no file can be written.

    Raises:
        RegrowthError: a folder stands there, or what is to be kept; or the place cannot be written. `option` names it.
    """
    out = _free_name(out, overwrite=overwrite)
    _check_place(out, out, option)
    return out


def _free_name(out: str | Path, *, overwrite: bool) -> Path:
    """As `free_file`, without an attempt to write there."""
    out = _no_dangling_link(Path(out))
    if os.path.isdir(out):
        raise RegrowthError(f"{out} is a folder; give a file")
    if os.path.exists(out) and not overwrite:
        raise _taken(out)
    return out


def free_folder(
    out: str | Path, *, overwrite: bool = False, marks: Collection[str] = (), option: str = "--out"
) -> Path:
    """Return `out` as a path, or raise where no folder can be written.

    Args:
        overwrite: it may replace a folder that a command of ours wrote.
        marks: names of files that show that one did, for a command that writes no record.
        option: what names `out`.

    Raises:
        RegrowthError: a file stands there, or what is to be kept; or the place cannot be written.
    """
    out = _no_dangling_link(Path(out))
    if os.path.exists(out) and not os.path.isdir(out):
        raise RegrowthError(f"{out} is a file, not a folder; use another --out")
    if os.path.isdir(out):
        if overwrite:
            check_replaceable(out, marks=marks, option=option)
        elif any(out.iterdir()):
            raise _taken(out)
    _check_place(out, out.resolve(), option)
    return out


def _check_place(out: Path, target: Path, option: str) -> None:
    """Refuse an output whose folder takes no new file, by an attempt: permissions do not tell on every file system.

    Args:
        target: where `out` leads to.
    """
    place = existing(target.absolute().parent)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise (_NoRoomError if no_room(error) else RegrowthError)(
            f"{option} {out} cannot be written ({place}: {why}); give a place that can be written"
        ) from error


def check_apart(out: str | Path | None, *read: str | Path | None, option: str = "--out") -> None:
    """Refuse a folder to be written that would replace what is read: it is one of `read`, or holds it.

    Args:
        out: None: nothing is written.
        read: files and folders, links by their own place too. None, and text that names nothing here (a hub id),
            stand for nothing.
        option: what names `out`.

    Raises:
        RegrowthError: naming both.
    """
    if out is None:
        return
    target = Path(out).resolve()
    for one, places in _places(read):
        if any(place.is_relative_to(target) for place in places):
            raise RegrowthError(f"{option} {out} would replace {one}, which is read; give another folder")


def check_files_apart(outputs: Mapping[str, str | Path | None], *read: str | Path | None) -> None:
    """Refuse files to be written that would replace one another, or a file that is read.

    Args:
        outputs: option -> the file that it names; None: that one is not written.
        read: files, as in `check_apart`. Of a folder nothing is replaced: its files are to be named.

    Raises:
        UsageError: two of `outputs` are one file.
        RegrowthError: one of them is read; the message names both.
    """
    written = {option: Path(out).resolve() for option, out in outputs.items() if out is not None}
    if twice := [option for option, path in written.items() if list(written.values()).count(path) > 1]:
        raise UsageError(f"{' and '.join(twice)} name one file; give each its own")
    for one, places in _places(read):
        for option, path in written.items():
            if path in places:
                raise RegrowthError(f"{option} {outputs[option]} would replace {one}, which is read; give another file")


def _places(read: Iterable[str | Path | None]) -> Iterator[tuple[str | Path, tuple[Path, ...]]]:
    """Those of `read` that are on this machine, each with its own place and where it leads to if it is a link."""
    for one in read:
        if one is None:
            continue
        path = Path(one).expanduser()
        if isinstance(one, Path) or path.exists():
            yield one, (path.resolve(), path.parent.resolve() / path.name)


@contextmanager
def staged_directory(
    out: str | Path, *, overwrite: bool = False, marks: Collection[str] = (), option: str = "--out"
) -> Iterator[Path]:
    """Yield a fresh folder beside `out`; when the block ends well, it becomes `out` in one rename.

    If the block raises, nothing is left. A killed run leaves only a hidden sibling, which the next run clears. Where
    `out` is a link to a folder, that folder is written, and the link stays.

    Args:
        overwrite, marks, option: as `free_folder` takes them.

    Raises:
        RegrowthError: see `free_folder`; or another run finished it first, or the disk is full.
    """
    out = free_folder(out, overwrite=overwrite, marks=marks, option=option).resolve()
    with _room(out, f"use another {option}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_debris(out)
        stage, lock = _make_stage(out)
        try:
            stage.chmod(0o777 & ~_umask())
            yield stage
            _sync_tree(stage)
            if overwrite and out.is_dir():  # another may have filled it meanwhile
                check_replaceable(out, marks=marks, option=option)
            _publish(stage, out, overwrite=overwrite)
            sync(out.parent)
        finally:
            os.close(lock)
            shutil.rmtree(stage, ignore_errors=True)


class _NoRoomError(RegrowthError):
    """There is no room for an output. Its cause is the error of the system or of a library."""


@contextmanager
def _room(out: Path, elsewhere: str = "write elsewhere") -> Iterator[None]:
    """Name `out` where the block finds its place full; an error of a file elsewhere is left as it is."""
    try:
        yield
    except Exception as error:
        inner = isinstance(error, _NoRoomError)  # of a file within the folder `out`, as it is named while it is made
        cause = error.__cause__ if inner else error
        full = None if cause is None or (isinstance(error, RegrowthError) and not inner) else no_room(cause)
        name = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
        if full is None or (isinstance(name, str) and not Path(name).absolute().is_relative_to(out.absolute().parent)):
            raise
        raise _NoRoomError(f"{out} cannot be written ({full[0]}); {full[1]}, or {elsewhere}") from cause


def write_text(path: str | Path, text: str, *, overwrite: bool = False) -> None:
    """Write a file whole or not at all.

    Raises:
        RegrowthError: `path` exists (and not `overwrite`), is a folder or a dangling link; or another run was first.
    """
    write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def write_bytes(path: str | Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file whole or not at all.

    Raises:
        RegrowthError: `path` exists (and not `overwrite`), is a folder or a dangling link; another run was first; or
            the disk is full.
    """
    write_files({Path(path): content}, overwrite=overwrite)


def write_files(contents: Mapping[Path, bytes], *, overwrite: bool = False) -> None:
    """Write several files whole, as `write_bytes`; none of them where one finds no room."""
    paths = [_free_name(path, overwrite=overwrite) for path in contents]
    written: list[str] = []
    try:
        for path, content in zip(paths, contents.values(), strict=True):
            with _room(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(prefix=_prefix(path), dir=path.parent)
                written.append(name)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o666 & ~_umask())
        for path, name in zip(paths, written, strict=True):
            with _room(path):
                if overwrite:
                    os.replace(name, path)
                else:
                    _put_new(name, path)
                sync(path.parent)
    finally:
        for name in written:
            Path(name).unlink(missing_ok=True)


def write_json(path: str | Path, document: Any, *, overwrite: bool = False) -> None:
    """Write JSON for people and machines alike; NaN and infinity are refused, they are no numbers."""
    write_text(path, json_text(document), overwrite=overwrite)


def json_text(document: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json_lines(path: str | Path, rows: Iterable[Any]) -> None:
    """Write a new file of one JSON document a line; NaN and infinity are refused, as above."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def _no_dangling_link(out: Path) -> Path:
    if out.is_symlink() and not out.exists():
        raise RegrowthError(f"{out} is a dangling link; remove it or use another --out")
    return out


def _taken(out: Path) -> RegrowthError:
    return RegrowthError(f"{out} already exists; use another --out or add --overwrite")


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
    for left in out.parent.glob(glob.escape(_prefix(out)) + "*"):
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
    try:
        if overwrite and out.exists():
            _swap(stage, out)  # `stage` now holds what is replaced, and is removed
        else:
            os.rename(stage, out)  # this replaces an empty folder, and nothing else
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise RegrowthError(f"{out} was made by another run meanwhile; that one is kept") from error
        raise


def _put_new(temporary: str, path: Path) -> None:
    """Give a file its name, unless something has that name already."""
    try:
        os.link(temporary, path)
    except OSError:  # the name is taken, or the file system has no hard links
        if os.path.lexists(path):
            raise _taken(path) from None
        os.rename(temporary, path)


def _swap(stage: Path, out: Path) -> None:
    """Exchange two folders in one step, by renameat2(2); in two where the file system lacks it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = (_AT_FDCWD, os.fsencode(stage), _AT_FDCWD, os.fsencode(out))
        if libc.renameat2(*names, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code), str(out))
    # Not the prefix of debris: a run that is killed between the two renames must not lose what it was to replace.
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.replaced-", dir=out.parent))
    old = aside / out.name
    try:
        os.rename(out, old)
        os.rename(stage, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for below, _, files in os.walk(folder):
        for name in files:
            sync(Path(below) / name)
        sync(Path(below))
