"""Moving byte ranges from file to file inside the kernel. No tensor is made.

The ladder, for each range: share the blocks (FICLONERANGE, on XFS, Btrfs and others), else copy_file_range(2), else
one small buffer that is used again and again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from prune.checkpoint.layout import Layout, Range, split_range
from prune.common.errors import CheckpointError, RegrowthError

_STEP = 64 << 20  # bytes a call: progress moves, and memory stays small whatever the model's size
_BUFFER = 1 << 20
_FICLONERANGE = 0x4020940D  # ioctl_ficlonerange(2): _IOW(0x94, 13, struct file_clone_range)
_SMALLEST_BLOCK, _LARGEST_BLOCK = 4096, 1 << 16
# What the kernel says where two file systems, or this one, cannot do it.
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY, errno.ENOTTY}


def shared_block(source: Path, folder: Path) -> int | None:
    """The block size in bytes if files in `folder` can share blocks with the file `source`; None if they cannot.

    Found by sharing one block with a file that has no name, so that nothing stays behind.
    """
    size = os.statvfs(folder).f_bsize
    block = size if _SMALLEST_BLOCK <= size <= _LARGEST_BLOCK and size & (size - 1) == 0 else _SMALLEST_BLOCK
    if source.stat().st_size < block:
        return None
    try:
        probe = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):  # no O_TMPFILE: no file system that we know shares blocks
        return None
    try:
        read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return block if _clone(read, probe, Range(0, 0, block)) else None
        finally:
            os.close(read)
    finally:
        os.close(probe)


def link_file(source: Path, target: Path) -> None:
    """Give the file `source` (links followed) a second name: both are one file from then on.

    Raises:
        RegrowthError: the file system cannot; the message says what to do instead.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError as error:
        why = {errno.EXDEV: "they are on two file systems", errno.EMLINK: "it has too many names already"}.get(
            error.errno or 0, error.strerror or "the file system cannot"
        )
        raise RegrowthError(
            f"--link: {source} cannot be hard-linked to the new model's folder ({why}); "
            "leave --link out to copy it, or name an --out on the source's file system"
        ) from None


def write_layout(
    source: Path, target: Path, layout: Layout, advance: Callable[[int], None], *, block: int | None
) -> None:
    """Write a new shard: its header, then its ranges of the source, which is opened for reading only.

    Args:
        source, target: files; the target must not exist.
        advance: called with bytes as they are written.
        block: share whole blocks of so many bytes with the source where they align; from `shared_block`. None: copy.

    Raises:
        CheckpointError: the source became shorter meanwhile.
        OSError: the disk is full, or a file cannot be read or written.
    """
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            write_all(write, layout.header, 0, target)
            for part in layout.ranges:
                _share_or_move(read, write, part, source, target, advance, block)
        finally:
            os.close(write)
    finally:
        os.close(read)


def _share_or_move(
    read: int, write: int, part: Range, source: Path, target: Path, advance: Callable[[int], None], block: int | None
) -> None:
    pieces = split_range(part, block) if block else None
    if pieces is None or not _clone(read, write, pieces[1]):
        _move(read, write, part, source, target, advance)
        return
    head, middle, tail = pieces
    advance(middle.length)
    _move(read, write, head, source, target, advance)
    _move(read, write, tail, source, target, advance)


def _clone(read: int, write: int, part: Range) -> bool:
    try:
        fcntl.ioctl(write, _FICLONERANGE, struct.pack("@qQQQ", read, part.source, part.length, part.target))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def _move(read: int, write: int, part: Range, source: Path, target: Path, advance: Callable[[int], None]) -> None:
    done = 0
    while done < part.length:
        try:
            count = os.copy_file_range(
                read, write, min(_STEP, part.length - done), part.source + done, part.target + done
            )
        except OSError as error:
            if error.errno not in _CANNOT:
                raise OSError(error.errno, error.strerror, str(source), None, str(target)) from None
            break
        if not count:
            break  # some file systems answer 0 instead of an error; the buffer finds out whether the file ended
        done += count
        advance(count)
    buffer = memoryview(bytearray(min(_BUFFER, part.length - done)))
    while done < part.length:
        try:
            count = os.preadv(read, [buffer[: part.length - done]], part.source + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(source)) from None
        if not count:
            raise CheckpointError(f"{source} became shorter while it was read")
        write_all(write, buffer[:count], part.target + done, target)
        done += count
        advance(count)


def write_all(write: int, content: bytes | memoryview, offset: int, target: Path) -> None:
    """Write all of `content` at byte `offset`; an error names `target`."""
    content = memoryview(content)
    while content:
        try:
            count = os.pwrite(write, content, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from None
        content, offset = content[count:], offset + count
