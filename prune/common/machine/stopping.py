"""How a run is asked to stop: by a signal that is noted, so that what is done can be kept first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prune.common.errors import RegrowthError


class Interrupted(RegrowthError):  # noqa: N818 - it is no error of the run
    """The run was asked to stop, and has saved what it had. Exit code 128 + the signal's number, as shells have it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Request:
    """Which signal has asked the run to stop: its number, or 0."""

    number = 0


@contextmanager
def stop_requests(words: str, *, ready: Callable[[], bool] = lambda: True) -> Iterator[Request]:
    """While it lasts, SIGTERM and SIGINT (Ctrl-C) are noted instead of ending the process; a second one ends it.

    Args:
        words: said when one is noted: what is done first.
        ready: whether anything can be kept; until then the first one ends the process too.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request  # signals come to the main thread alone
        return

    def note(number: int, _: Any) -> None:
        for known, handler in before.items():
            signal.signal(known, handler)
        if not ready():
            signal.raise_signal(number)
            return
        request.number = number
        os.write(2, f"\nStopping: {words}; once more to stop at once.\n".encode())

    before = {known: signal.signal(known, note) for known in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
