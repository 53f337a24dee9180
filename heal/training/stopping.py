"""How a run ends before its budget: asked by a signal, once its step is finished, or because it has diverged."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prune.common.errors import RegrowthError
from prune.common.machine.stopping import Interrupted

if TYPE_CHECKING:
    from heal.training.checkpoints import Checkpoints
    from heal.training.curve import Curve


class DivergedError(RegrowthError):
    """The run's numbers are none any more. what: which, in which step, and what to lower, without what is kept."""

    def __init__(self, what: str, kept: str) -> None:
        super().__init__(what + kept)
        self.what = what


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
