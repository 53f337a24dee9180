"""The work of an unfinished run: arrays and facts in one hidden file beside its --out, from which it goes on.

The file is written whole or not at all, and goes when the run is done.
"""

from __future__ import annotations

import glob
import io
import json
import signal
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from prune.common.errors import RegrowthError, UsageError
from prune.common.files.outputs import write_bytes
from prune.common.machine.processes import rank_and_world
from prune.common.machine.stopping import Interrupted, Request, stop_requests
from prune.common.screen.terminal import screen
from prune.common.sizes import spell_size

T = TypeVar("T")
Arrays = Mapping[str, np.ndarray]
EVERY = 20.0  # seconds between two writings


class Unfinished:
    """The file in which a run keeps its work until it is done. Of several processes each has its own."""

    def __init__(self, path: str | Path) -> None:
        rank, world = rank_and_world()
        self._path = Path(path)
        self._mine = self._path if world == 1 else self._path.with_name(f"{self._path.name}.{rank}")
        self._facts: dict[str, Any] = {}
        self._written = time.monotonic()
        self._working = False  # there is work to keep
        self._stop = Request()
        self._requests: AbstractContextManager[Request] | None = None

    def __enter__(self) -> Self:
        """From here on a first SIGINT or SIGTERM waits until the work so far is kept, and then ends the run."""
        self._requests = stop_requests("what is done so far is kept first", ready=lambda: self._working)
        self._stop = self._requests.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Raises: Interrupted: instead of KeyboardInterrupt; it says whether something is kept."""
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.__exit__(None, None, None)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            raise self._interrupted(signal.SIGINT) from error

    def _interrupted(self, number: int) -> Interrupted:
        if not self._mine.exists():
            return Interrupted("interrupted; nothing was kept", number)
        return Interrupted(
            f"interrupted; what was done is in {self._mine}: the same command with --resume goes on there", number
        )

    @classmethod
    def beside(cls, out: str | Path, *, resume: bool, overwrite: bool) -> Self:
        """That of a run into `out`: `.NAME.unfinished`. What an earlier run has left is for `resume`, or goes.

        Raises:
            RegrowthError: there is something left, and neither `resume` nor `overwrite` is given.
        """
        out = Path(out)
        unfinished = cls(out.parent / f".{out.name}.unfinished")
        if not resume and unfinished._files():
            if not overwrite:
                raise RegrowthError(
                    f"a run into {out} stands unfinished: go on with --resume, or begin anew with --overwrite"
                )
            unfinished.clear()
        return unfinished

    def read(self, facts: Mapping[str, Any], restore: Callable[[Any, Arrays], T]) -> T | None:
        """What `restore` makes of the state and arrays that were written; None if nothing was.

        Args:
            facts: what the work depends on, as JSON. What is written from now on is of these facts.

        Raises:
            RegrowthError: not such a file.
            UsageError: it is of a run with other facts, of which the message names the first; or one process goes on
                with what several have left, or the other way round.
        """
        self._facts = json.loads(json.dumps(facts))
        if not self._mine.exists():
            self._check_processes()
            return None
        try:
            with np.load(self._mine, allow_pickle=False) as arrays:
                head = json.loads(str(arrays["head"]))
                before, work = dict(head["facts"]), restore(head["state"], arrays)
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile):
            raise RegrowthError(
                f"{self._mine} is not what an interrupted run has left; begin anew with --overwrite"
            ) from None
        check_unchanged(before, self._facts)
        screen().print(f"Going on with {self._mine} ({spell_size(self._mine.stat().st_size)})")
        return work

    def _check_processes(self) -> None:
        """Without this process's own file: refuse those that a run of one process, or of several, has left."""
        several = [path for path in self._files() if path.name.removeprefix(self._path.name)[1:].isdecimal()]
        if several and self._mine == self._path:
            begun, now = f"{len(several)} processes or more", "one"
        elif self._path.exists() and self._mine != self._path:
            begun, now = "one process", "several"
        else:
            return
        raise UsageError(
            f"--resume: the run was begun by {begun} and would go on in {now}; start as many, or begin anew with "
            "--overwrite"
        )

    def due(self) -> bool:
        """Whether it is time to write again; asked wherever the work is whole."""
        self._working = True
        return self._stop.number > 0 or time.monotonic() - self._written > EVERY

    def write(self, state: Any, arrays: Arrays) -> None:
        """Keep the work so far: `state`, which is JSON, and arrays of numbers.

        Raises:
            Interrupted: a signal has asked the run to stop.
        """
        head = np.array(json.dumps({"facts": self._facts, "state": state}))
        content = io.BytesIO()
        np.savez(content, head=head, **arrays)  # type: ignore[arg-type]
        write_bytes(self._mine, content.getvalue(), overwrite=True)
        self._written = time.monotonic()
        if self._stop.number:
            raise self._interrupted(self._stop.number)

    def beside_it(self, suffix: str) -> Path:
        """A file for work that grows, such as rows; it goes with this one."""
        return self._mine.with_name(self._mine.name + suffix)

    def clear(self) -> None:
        """Remove what was kept, by all processes."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self._path.parent.glob(f"{glob.escape(self._path.name)}*") if path.is_file()]


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was begun with something else. What has a hash may stand elsewhere by now.

    Args:
        before: facts of the run that was begun, as JSON. Those that `now` does not name are passed over.
        now: facts of this one, as JSON.

    Raises:
        UsageError: a fact is different; the message names the first, by its option where it has one.
    """
    begun, here = dict(_flat({name: before.get(name) for name in now})), dict(_flat(now))
    for name in begun | here:
        if (was := begun.get(name)) != (is_now := here.get(name)):
            raise UsageError(
                f"--resume: {_told(name)} was {_shown(was)} and is now {_shown(is_now)}; go on with what the run was "
                "begun with, or begin anew with --overwrite"
            )


# Facts that no option of that name sets -> how a message calls them. All others go by their option: rank -> --rank.
_CALLED = {
    "adapters": "--adapter",
    "blocks": "the list of blocks",
    "cuts": "the list of cuts",
    "domain_texts": "--domain-text",
    "facts": "the loaded model",
    "method": "the way of healing",
    "model": "the model",
    "pool": "the pool of text",
    "process": "the process and how many there are",
    "questions": "the set of questions",
    "requests": "the set of requests",
    "sampled text": "the sampled text",
    "steps": "--tokens, in steps,",
    "texts": "--text",
    "vllm": "the version of vLLM",
    "way": "the way of asking",
    "weights": "the judged weights",
}
_GROUPS = ("settings", "steps", "text")  # facts that hold others, each of which goes by its own name


def _told(name: str) -> str:
    """How a message calls a fact: `settings.lora_alpha` is --lora-alpha, `text.text.sha256` is --text (sha256)."""
    group, _, within = name.partition(".")
    head, _, rest = (within if group in _GROUPS and within else name).partition(".")
    called = _CALLED.get(head, f"--{head.replace('_', '-')}")
    return f"{called} ({rest})" if rest else called


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested names with dots, each with its value; without the place of what has a hash."""
    hashed = {name for name, by in (("source", "sha256"), ("model", "weights_sha256")) if value.get(by)}
    for key, entry in value.items():
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            entry = {str(number): part for number, part in enumerate(entry, 1)}
        if isinstance(entry, dict) and entry:
            yield from _flat(entry, f"{prefix}{key}.")
        elif key not in hashed:
            yield prefix + key, entry


def _shown(value: Any) -> str:
    text = "not there" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) < 100 else text[:96] + " ..."


class FinishedParts:
    """Parts by their names, in memory, and from time to time in the file of an unfinished run.

    Args:
        unfinished: that file; if None, nothing outlives the run.
        facts: what the parts depend on. Those of an earlier run with the same facts are there again.

    Raises:
        RegrowthError: the file is not what such a run has left.
        UsageError: it is of a run with other facts.
    """

    def __init__(self, unfinished: Unfinished | None = None, facts: Mapping[str, Any] | None = None) -> None:
        self._unfinished = unfinished
        self._parts: dict[str, Arrays] = {}
        if unfinished is not None:
            self._parts = unfinished.read(facts or {}, _restore) or {}

    def get(self, name: str) -> Arrays | None:
        """A finished part, or None."""
        return self._parts.get(name)

    def put(self, name: str, part: Arrays) -> None:
        """Keep a finished part."""
        self._parts[name] = part
        if self._unfinished is not None and self._unfinished.due():
            names = [(name, key) for name, part in self._parts.items() for key in part]
            arrays = {f"array{number}": self._parts[name][key] for number, (name, key) in enumerate(names)}
            self._unfinished.write(names, arrays)


def _restore(names: Any, arrays: Arrays) -> dict[str, Arrays]:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for number, (name, key) in enumerate(names):
        parts.setdefault(name, {})[key] = arrays[f"array{number}"]
    return dict(parts)
