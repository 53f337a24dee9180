"""Bytes from one file to another inside the kernel where it can, else through one small buffer. No tensor is made."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from prune.byteranges import Layout, Range
from prune.errors import CheckpointError

_STEP = 64 << 20  # bytes a call: progress moves, and memory stays small whatever the model's size
_BUFFER = 1 << 20
# What copy_file_range(2) says where two file systems, or this kernel, cannot do it.
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}


def write_layout(source: Path, target: Path, layout: Layout, advance: Callable[[int], None]) -> None:
    """Write a new shard: its header, then its ranges of the source, which is opened for reading only.

    Args:
        source, target: files; the target must not exist.
        layout: what to write.
        advance: called with bytes as they are written.

    Raises:
        CheckpointError: the source became shorter meanwhile.
        OSError: the disk is full, or a file cannot be read or written.
    """
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _write_all(write, memoryview(layout.header), 0, target)
            for part in layout.ranges:
                _move(read, write, part, source, target, advance)
        finally:
            os.close(write)
    finally:
        os.close(read)


def _move(read: int, write: int, part: Range, source: Path, target: Path, advance: Callable[[int], None]) -> None:
    done = 0
    while done < part.length:
        try:
            count = os.copy_file_range(
                read, write, min(_STEP, part.length - done), part.source + done, part.target + done
            )
        except OSError as error:
            if error.errno not in _CANNOT:
                raise OSError(error.errno, error.strerror, str(target)) from None
            break
        if not count:
            break  # some file systems answer 0 instead of an error; the buffer finds out whether the file ended
        done += count
        advance(count)
    buffer = memoryview(bytearray(min(_BUFFER, part.length - done)))
    while done < part.length:
        count = os.preadv(read, [buffer[: part.length - done]], part.source + done)
        if not count:
            raise CheckpointError(f"{source} became shorter while it was read")
        _write_all(write, buffer[:count], part.target + done, target)
        done += count
        advance(count)


def _write_all(write: int, content: memoryview, place: int, target: Path) -> None:
    while content:
        try:
            count = os.pwrite(write, content, place)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from None
        content, place = content[count:], place + count
