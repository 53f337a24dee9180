"""The checkpoints of an unfinished run: where they stand, whole or not at all, and which one to go on from.

They stand in a hidden folder beside the run's `--out`, `.NAME.unfinished`, which goes when the run is done:

    run.json          what is healed, on what text, with which settings: a run with others is not this one
    held-out.json     the rows that are measured
    responses.jsonl   what the full model wrote to train on, for --teacher-data self; responses.partial.jsonl before
                      all of it is there
    checkpoint-STEP/  adapter, optimiser, scheduler, generators of each process, curve.json,
                      rows-RANK.json.gz (the place of each in the text), and sums.json with the SHA-256 of each file

A checkpoint is written under another name and renamed when all of it is on the disk. The last two are kept. Where there
is neither a checkpoint nor a response, nothing is lost, and the folder goes with the run.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError
from prune.common.files.outputs import sync, write_json
from prune.common.files.provenance import file_sha256
from prune.common.files.resume import check_unchanged
from prune.common.machine.processes import is_main, rank_and_world

RUN_FORMAT = "regrowth.unfinished/3"
_SUMS, _RUN, _HELD_OUT = "sums.json", "run.json", "held-out.json"
_MOST = 2  # checkpoints that are kept
RESPONSES = "responses.jsonl"


class Checkpoints:
    """The unfinished run of `out`, locked against a second one. Only the main of several processes writes."""

    def __init__(self, out: Path) -> None:
        self.folder = out.parent / f".{out.name}.unfinished"
        self._lock: int | None = None

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, the latest first; their content is not looked at."""
        steps = (path.name.removeprefix("checkpoint-") for path in self.folder.glob("checkpoint-*"))
        return sorted((int(step) for step in steps if step.isdigit()), reverse=True)

    def left(self) -> str:
        """What there is to go on from, in words; empty if nothing."""
        if steps := self.steps():
            return f"at step {steps[0]}"
        pattern = RESPONSES.replace(".", "*.")
        written = any(path.stat().st_size for path in self.folder.glob(pattern))
        return "with responses of the full model written, before its first checkpoint" if written else ""

    def path(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder for one run; goes at the end if nothing is left in it to go on from.

        Raises:
            RegrowthError: another run holds it.
        """
        if not is_main():
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RegrowthError(f"another run is healing into the --out of {self.folder}; wait for it") from None
            try:
                yield
            finally:
                if not self.left():
                    shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            os.close(self._lock)

    def clear(self) -> None:
        """Remove all that an earlier run has left; the folder itself goes when it is closed."""
        for left in self.folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def has_run(self) -> bool:
        """Whether it is written down what the run is."""
        return (self.folder / _RUN).is_file()

    def begun(self) -> dict[str, Any] | None:
        """The settings that the run was begun with, its rows a pass among them; None where there is none to go on with.

        Raises:
            RegrowthError: run.json cannot be read.
        """
        return dict(self._read_run()["settings"]) if self.has_run() else None

    def write_run(self, run: dict[str, Any], held_out: dict[str, Any]) -> None:
        """Write down what the run is, and what it is measured on."""
        write_json(self.folder / _HELD_OUT, held_out, overwrite=True)
        run = {"format": RUN_FORMAT, **run, "held_out_sha256": file_sha256(self.folder / _HELD_OUT)}
        write_json(self.folder / _RUN, run, overwrite=True)

    def settle(self, facts: dict[str, Any]) -> None:
        """Write down what is known of the run only when its model is loaded, or check it, if it is written."""
        known = self._read_run()
        if facts.keys() <= known.keys():
            self.check(facts)
        else:
            write_json(self.folder / _RUN, {**known, **facts}, overwrite=True)

    def check(self, run: dict[str, Any]) -> None:
        """Refuse to go on with another run than the one that was begun. What has a hash may stand elsewhere by now.

        Raises:
            UsageError: something is different; the message names it.
            RegrowthError: run.json cannot be read.
        """
        check_unchanged(self._read_run(), run)

    def held_out(self) -> dict[str, Any] | None:
        """The measured rows that the run was begun with; None if the file is damaged."""
        path = self.folder / _HELD_OUT
        if not path.is_file() or file_sha256(path) != self._read_run().get("held_out_sha256"):
            return None
        rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return rows

    def newest(self, say: Callable[[str], None]) -> Path | None:
        """The latest checkpoint that is whole; `say` is told of each that is not, and it is removed. None: no such."""
        for step in self.steps():
            damage = _damage(self.path(step))
            if damage is None:
                return self.path(step)
            say(f"The checkpoint of step {step} is damaged ({damage}): going back to the one before")
            shutil.rmtree(self.path(step), ignore_errors=True)
        return None

    @contextmanager
    def writing(self, step: int, barrier: Callable[[], None]) -> Iterator[Path]:
        """Yield a folder in which `checkpoint-STEP` is to be made, by all processes; then it is whole, and in place.

        Args:
            barrier: waits until all processes have come to it.
        """
        stage = self.folder / "writing"
        if is_main():
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir()
        barrier()
        yield stage
        barrier()
        if is_main():
            made, final = stage / f"checkpoint-{step}", self.path(step)
            files = sorted(path for path in made.rglob("*") if path.is_file())
            write_json(made / _SUMS, {path.relative_to(made).as_posix(): file_sha256(path) for path in files})
            for path in [*files, made]:
                sync(path)
            shutil.rmtree(final, ignore_errors=True)
            os.rename(made, final)
            sync(self.folder)
            shutil.rmtree(stage, ignore_errors=True)
            for old in self.steps()[_MOST:]:
                shutil.rmtree(self.path(old), ignore_errors=True)
        barrier()

    def _read_run(self) -> dict[str, Any]:
        try:
            run = dict(json.loads((self.folder / _RUN).read_text(encoding="utf-8")))
            written_as = run["format"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegrowthError(f"{self.folder / _RUN} cannot be read ({error}); begin anew with --overwrite") from None
        if written_as != RUN_FORMAT:
            raise RegrowthError(
                f"the unfinished run in {self.folder} was begun by another version of this program, which this one "
                f"cannot go on with ({written_as}, not {RUN_FORMAT}); begin anew with --overwrite"
            )
        return run


def write_state(folder: Path, curve: dict[str, Any], rows: dict[str, Any]) -> None:
    """Put this process's place in the text into a checkpoint, and the curve. Every process must call this."""
    if is_main():
        write_json(folder / "curve.json", curve)
    (folder / _rows_file()).write_bytes(gzip.compress(json.dumps(rows).encode(), compresslevel=1, mtime=0))


def read_curve(folder: Path) -> dict[str, Any]:
    curve: dict[str, Any] = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    return curve


def read_rows(folder: Path) -> dict[str, Any]:
    """Where this process stood in the text."""
    rows: dict[str, Any] = json.loads(gzip.decompress((folder / _rows_file()).read_bytes()))
    return rows


def _rows_file() -> str:
    return f"rows-{rank_and_world()[0]}.json.gz"


def _damage(checkpoint: Path) -> str | None:
    try:
        sums = json.loads((checkpoint / _SUMS).read_text(encoding="utf-8"))
        for name, wanted in sums.items():
            if file_sha256(checkpoint / name) != wanted:
                return f"{name} is not what was written"
    except (OSError, ValueError, AttributeError) as error:
        return str(error).splitlines()[0]
    return None
