"""Errors of a place that takes no more: what is wrong in a few words, and what to do about it."""

from __future__ import annotations

import errno
import os
import re

_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "allow larger files there (ulimit -f)",
    errno.EROFS: "make it writable",
}
_CODE = re.compile(r"\(os error (\d+)\)")  # as libraries written in Rust say it, such as safetensors


def no_room(error: BaseException) -> tuple[str, str] | None:
    """Why nothing more can be written, and the remedy; None where the error is another one."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (said := _CODE.search(str(error))):
        code = int(said[1])
    return None if code not in _REMEDIES else (os.strerror(code), _REMEDIES[code])
