"""The trackers that `--report-to` names: where they put their files, while the run lasts and in the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "regrowth"
_VARIABLES = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "wandb": "WANDB_DIR"}  # a user's own place for the files


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
    place, name = log_folder(folder, reporter), folder.name.strip(".").removesuffix(".unfinished")
    if reporter in _VARIABLES:
        place.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", PROJECT) if reporter == "wandb" else PROJECT
    options = {"wandb": {"name": name, "dir": str(place)}, "trackio": {"name": name}, "tensorboard": {}}
    # tensorboard knows no projects; accelerate puts its files into a folder of the project's name
    accelerator.init_trackers(
        place.name if reporter == "tensorboard" else project,
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
