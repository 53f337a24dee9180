"""How a run ends before its budget: asked by a signal, once its step is finished, or because it has diverged."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.common.errors import RegrowthError

if TYPE_CHECKING:
    from heal.training.checkpoints import Checkpoints
    from heal.training.curve import Curve


class Interrupted(RegrowthError):  # noqa: N818 - it is no error of the run
    """The run was asked to stop, and has saved what it had. Exit code 128 + the signal's number, as shells have it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class DivergedError(RegrowthError):
    """The run's numbers are none any more. what: which, in which step, and what to lower, without what is kept."""

    def __init__(self, what: str, kept: str) -> None:
        super().__init__(what + kept)
        self.what = what


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
        for known, handler in before.items():
            signal.signal(known, handler)
        os.write(2, b"\nStopping: the running step is finished and a checkpoint saved; once more to stop at once.\n")

    before = {known: signal.signal(known, note) for known in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


def interrupted(number: int, step: int, checkpoint: Path) -> Interrupted:
    """What ends a run that a signal has asked to stop, after `step`, whose checkpoint is `checkpoint`."""
    name = str(number)
    with suppress(ValueError):
        name = signal.Signals(number).name
    return Interrupted(
        f"stopped by {name} after step {step}; its checkpoint is {checkpoint}: the same command with --resume goes on "
        "there",
        number,
    )


def diverged(what: str, step: int, curve: Curve, checkpoints: Checkpoints) -> RegrowthError:
    """The error that ends a run whose numbers are none any more.

    Args:
        what: which number.
        step: in which it was seen, 1-based.
    """
    steps = checkpoints.steps()
    line = f"{what} at step {step}: training has diverged; begin anew with a lower --learning-rate"
    line, kept_words = line + (" (and --overwrite)" if steps else ""), ""
    if steps:
        good = [saved for saved in steps if curve.sane(saved)]
        kept = (good or steps)[0]
        kept_words = (
            f"; the last {'good ' if good else ''}checkpoint, of step {kept}, is kept in {checkpoints.path(kept)}, "
            "an adapter that peft loads"
        )
    return DivergedError(line, kept_words)
