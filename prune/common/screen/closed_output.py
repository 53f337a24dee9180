"""A command whose output is read no further, as by `| head -1`: it ends without a word, as other programs do."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

GONE = 141  # as of a program that SIGPIPE has ended


@contextmanager
def while_read() -> Iterator[None]:
    """Run the block; where what reads our output has closed it (`| head -1`), end without a word, with code 141."""
    try:
        yield
        sys.stdout.flush()
    except SystemExit as error:  # rich has met it, and would end with 1
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        raise typer.Exit(GONE) from None
    except OSError as error:
        if not is_closed_output(error):
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)  # else Python complains when it flushes what is left, at its end
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if _has_no_reader(stream):
                    os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise typer.Exit(GONE) from None


def is_closed_output(error: BaseException) -> bool:
    """Whether it is of our own stdout or stderr; a pipe to a child or a socket breaks in the same words."""
    return (
        isinstance(error, OSError)
        and error.errno == errno.EPIPE
        and any(_has_no_reader(stream) for stream in (sys.stdout, sys.stderr))
    )


def _has_no_reader(stream: Any) -> bool:
    try:
        watched = select.poll()
        watched.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in watched.poll(0))
    except (OSError, ValueError, AttributeError):  # no file at all, as in tests
        return False
