"""Where the loggers that `--report-to` names put their files: into the run's folder, and in the end into `--out`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VARIABLES = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "wandb": "WANDB_DIR"}


@contextmanager
def logs_in(folder: Path, reporter: str) -> Iterator[None]:
    """While it lasts, let the reporter write to `folder/REPORTER`, unless the user has set another place for it."""
    variable = _VARIABLES.get(reporter)
    if variable is None or variable in os.environ:
        yield
        return
    place = folder / reporter
    place.mkdir(parents=True, exist_ok=True)
    os.environ[variable] = str(place)
    try:
        yield
    finally:
        del os.environ[variable]


def keep_logs(folder: Path, out: Path, reporter: str) -> None:
    """Copy what was written there to `out/REPORTER`."""
    if (folder / reporter).is_dir():
        shutil.copytree(folder / reporter, out / reporter)
