"""Finished parts of a run, kept beside its output until it is written, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from prune.common.outputs import write_bytes

Parts = dict[str, np.ndarray]


class Kept:
    """A hidden folder beside `out`, with a file for each finished part.

    Args:
        out: the file that the run will write; nothing is kept if None.
        resume: use what an earlier run with the same facts has left; without it, that is removed.
    """

    def __init__(self, out: str | Path | None = None, *, resume: bool = False) -> None:
        self._folder = None if out is None else Path(out).with_name(f".{Path(out).name}.resume")
        self._mark = ""
        if not resume:
            self.clear()

    def begin(self, facts: Any) -> None:
        """Say what the parts depend on; those of other facts are not used."""
        self._mark = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def get(self, name: str) -> Parts | None:
        """A finished part, or None."""
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def put(self, name: str, parts: Parts) -> None:
        """Keep a finished part."""
        if (path := self._path(name)) is not None:
            content = io.BytesIO()
            np.savez(content, **parts)  # type: ignore[arg-type]
            write_bytes(path, content.getvalue(), overwrite=True)

    def clear(self) -> None:
        """Remove the folder: the run is complete, or begins anew."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._mark}-{name}.npz"
