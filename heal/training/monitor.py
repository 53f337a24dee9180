"""What a run tells of itself as it goes: held-out losses for its curve, numbers for a tracker, words for the bar.

Also the trackers that `--report-to` names: where they put their files, while the run lasts and in the end.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.models.held_out import Losses
from heal.training.stopping import diverged
from prune.common.machine.processes import sharded
from prune.models.spread import peak_over

if TYPE_CHECKING:
    from accelerate import Accelerator

    from heal.training.checkpoints import Checkpoints
    from heal.training.schedule import Schedule
    from heal.training.state import TrainingState
    from prune.common.screen.terminal import Progress

PROJECT = "regrowth"
_VARIABLES = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "wandb": "WANDB_DIR"}  # a user's own place for the files


@dataclass(frozen=True)
class Monitor:
    """Watches one run.

    Attributes:
        measure_held_out: losses of the model as it stands; given FSDP's wrapper where there is one, else None.
        every: steps between two measurements.
        patience: measurements without a better loss that end a run; None: no number does.
    """

    accelerator: Accelerator
    measure_held_out: Callable[[Any], Losses]
    schedule: Schedule
    every: int
    patience: int | None
    checkpoints: Checkpoints
    bar: Progress

    def measure(self, state: TrainingState) -> None:
        """Add a point to the curve, and keep the adapter if it is the best so far.

        Raises:
            RegrowthError: the loss is not finite.
        """
        curve = state.curve
        losses = self.measure_held_out(state.wrapped if sharded() else None)
        if not math.isfinite(losses.loss):
            raise diverged(f"the held-out loss is {losses.loss}", state.step, curve, self.checkpoints)
        curve.add(state.step, state.step * self.schedule.tokens_per_step, losses)
        if self.patience is not None and curve.stale() == 0:
            state.keep_best()
        texts = losses.texts if len(losses.texts) > 1 else {}
        named = {f"eval/loss_{name}": loss for name, loss in texts.items()}
        self.accelerator.log({"eval/loss": losses.loss, **named}, step=state.step)

    def after_step(self, state: TrainingState, *, loss: float, gradient: float, rate: float) -> None:
        """Measure where it is time to, and tell of the step that was done.

        Args:
            gradient: its norm before it was clipped.
            rate: that the step was taken at.
        """
        steps, curve = self.schedule.steps, state.curve
        if state.step % self.every == 0 or state.step == steps:
            self.measure(state)
        self.accelerator.log(
            {
                "train/loss": loss,
                "train/grad_norm": gradient,
                "train/learning_rate": rate,
                "train/epoch": state.step / steps,
            },
            step=state.step,
        )
        peak = peak_over(str(state.model.device))
        memory = peak.get("cuda_bytes", peak["resident_bytes"])
        speed = curve.steps_per_second(state.step) * self.schedule.tokens_per_step
        self.bar.advance()
        self.bar.note(
            f"loss {loss:.3f}  held-out {curve.points[-1].held_out_loss:.3f}  {speed:.0f} tokens/s  "
            f"{memory / 2**30:.1f} GiB"
        )

    def out_of_patience(self, state: TrainingState) -> bool:
        """Whether the held-out loss has not improved for as long as the run was to wait."""
        return self.patience is not None and state.curve.stale() >= self.patience


def log_folder(folder: Path, reporter: str) -> Path:
    """Where a tracker puts its files: `folder/REPORTER`, or where its environment variable says."""
    return Path(os.environ.get(_VARIABLES.get(reporter, ""), folder / reporter))


@contextmanager
def tracking(accelerator: Accelerator, folder: Path, reporter: str, config: dict[str, Any]) -> Iterator[None]:
    """While it lasts, what `accelerator.log` is given goes to the tracker `reporter`; "none": nowhere.

    Args:
        accelerator: made with `log_with=reporter` and the parent of `log_folder` as its folder for logs.
        folder: of the unfinished run; the tracker's name for it comes from it.
        config: what the tracker shows of the run's settings.
    """
    if reporter == "none":
        yield
        return
    logs, name = log_folder(folder, reporter), folder.name.strip(".").removesuffix(".unfinished")
    if reporter in _VARIABLES:
        logs.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", PROJECT) if reporter == "wandb" else PROJECT
    options = {"wandb": {"name": name, "dir": str(logs)}, "trackio": {"name": name}, "tensorboard": {}}
    # tensorboard knows no projects; accelerate puts its files into a folder of the project's name
    accelerator.init_trackers(
        logs.name if reporter == "tensorboard" else project,
        {key: value for key, value in config.items() if value is not None},
        {reporter: options[reporter]},
    )
    try:
        yield
    finally:
        for tracker in accelerator.trackers:  # end_training would also close the group of processes
            tracker.finish()


def keep_logs(folder: Path, out: Path, reporter: str) -> None:
    """Copy what was written there to `out/REPORTER`."""
    if (folder / reporter).is_dir():
        shutil.copytree(folder / reporter, out / reporter)
