"""The process of one stage: started, waited for, and stopped by one signal where the recipe is told to stop.

It stands in a process group of its own. A terminal's Ctrl-C would reach it too, beside the one that is passed on here:
the first makes healing save a checkpoint, the second ends it at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # Ctrl-C, kill, a closed terminal, Ctrl-\


@dataclass(frozen=True)
class Ended:
    """How a stage's process ended.

    Attributes:
        code: its exit code; of one that a signal has killed, minus the signal's number.
        peak_memory_bytes: of its memory.
        stopped_by: number of the first signal that was passed on to it; 0 if none was.
    """

    code: int
    peak_memory_bytes: int
    stopped_by: int


def run_child(words: Sequence[str], *, quiet: bool) -> Ended:
    """Run a command to its end, and pass on to it each signal that would end us, once.

    Args:
        quiet: swallow its stdout.
    """
    told = _Told()
    with _passing_on(told):
        told.child = child = subprocess.Popen(words, stdout=subprocess.DEVNULL if quiet else None, process_group=0)
        for number in told.early:
            os.kill(child.pid, number)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Ended(child.returncode, peak, told.first)


class _Told:
    """What signals have said. `early`: those that came before the child was there."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.early: list[int] = []
        self.first = 0

    def stop(self, number: int, _: FrameType | None) -> None:
        self.first = self.first or number
        if self.child is None:
            self.early.append(number)
        self._send(number)

    def pause(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z, which reaches our group alone: the child stands still as long as we do."""
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        if self.child is not None and self.child.returncode is None:
            with suppress(ProcessLookupError):  # it has ended this moment
                os.kill(self.child.pid, number)


@contextmanager
def _passing_on(told: _Told) -> Iterator[None]:
    """While it lasts, signals go to the child; those that we were started to ignore (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals come to the main thread alone
        return
    handlers = dict.fromkeys(_STOPS, told.stop) | {signal.SIGTSTP: told.pause}
    before = {number: signal.getsignal(number) for number in handlers}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        for number in heard:
            signal.signal(number, handlers[number])
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
