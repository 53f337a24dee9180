"""A process of our own that answers orders through a pipe, one at a time, and ends when we do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Pipe
from typing import IO, Any

STOP = "stop"  # the order that ends it
ENDED = "ended"  # what stands for the answer of one that has ended by itself
_PATIENCE = 30  # seconds for it to end by itself


class ChildProcess:
    """A Python process in a session of its own.

    What it runs reads orders from the pipe until `STOP`, sends a pair (kind, content) for each, and ends when the
    pipe does.

    Args:
        code: what it runs. `{path!r}` in it becomes our `sys.path`, `{descriptor}` its end of the pipe.
        environment: its environment; ours if None.
        log: where its stdout and stderr go; nowhere if None.
    """

    def __init__(
        self, code: str, *, environment: Mapping[str, str] | None = None, log: IO[bytes] | None = None
    ) -> None:
        self._waiting = self._closed = False
        self._pipe, theirs = Pipe()
        output = subprocess.DEVNULL if log is None else log
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code.format(path=sys.path, descriptor=theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is ours to hand on
            )

    def ask(self, order: Any) -> tuple[str, Any]:
        """The pair that it sends for an order, which must be of values that can be pickled.

        One that has ended gives `ENDED` and a few words. Where we are interrupted it is ended.
        """
        self._waiting = True
        try:
            self._pipe.send(order)
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            return ENDED, "its process ended without a word"
        except BaseException:
            self.close()
            raise
        self._waiting = False
        return kind, content

    def close(self, *, at_once: bool = False) -> None:
        """End it: in order where it is idle, at once where it is at work or `at_once` is asked for."""
        if self._closed:
            return
        self._closed = True
        if not self._waiting and not at_once:
            with suppress(OSError):
                self._pipe.send(STOP)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        with suppress(ProcessLookupError):  # all that it started too: the group has the number of its first process
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe.close()
