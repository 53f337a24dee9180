"""A run that is asked to stop by a signal finishes its step first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prune.errors import RegrowthError


class Interrupted(RegrowthError):  # noqa: N818 - it is no error of the run
    """The run was asked to stop, and has saved what it had. Exit code 128 + the signal's number, as shells have it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Request:
    """Which signal has asked the run to stop: its number, or 0."""

    number = 0


@contextmanager
def stop_requests() -> Iterator[Request]:
    """While it lasts, SIGTERM and SIGINT (Ctrl-C) are noted instead of ending the process; a second one ends it."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals come to the main thread alone
        return

    def note(number: int, _: Any) -> None:
        request.number = number
        for one, handler in before.items():
            signal.signal(one, handler)
        os.write(2, b"\nStopping: the running step is finished and a checkpoint saved; once more to stop at once.\n")

    before = {one: signal.signal(one, note) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
