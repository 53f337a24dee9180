"""Commands that take turns, so that a busy minute of the machine meets all of them."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.peers.record import Measured, measure

MIB = 1 << 20
OFFLINE = {"HF_HUB_OFFLINE": "1"}  # no tool waits for the hub


class FailedError(Exception):
    """A command that is measured failed, or took too long; the message is its last line."""


def ours(command: str) -> str:
    """Regrowth's own row."""
    return f"Regrowth {version('regrowth')}, `{command}`"


def take_turns(
    ways: Mapping[str, Sequence[object]],
    rounds: int,
    *,
    limit_s: float,
    before: Callable[[], None] = lambda: None,
    after: Callable[[str, Measured], None] = lambda name, run: None,
) -> dict[str, list[Measured]]:
    """Run each command `rounds` times; each round begins with another one. What fails is left out of further rounds.

    Args:
        ways: command lines by name.
        before, after: called around each run, and not measured.

    Returns:
        The runs by name. A command that failed has one run, its failed one.
    """
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    failed: set[str] = set()
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name in failed:
                continue
            before()
            os.sync()
            run = measure(ways[name], limit_s=limit_s, variables=OFFLINE)
            if run.code:
                failed.add(name)
                found[name] = [run]
            else:
                found[name].append(run)
            after(name, run)
    return found


def figures(tool: str, runs: Sequence[Measured], **more: object) -> dict[str, object]:
    """A row: median seconds, their range, the greatest peak; or why there are none."""
    if (failed := runs[-1]).code:
        return {"tool": tool, "not_run": failed.why}
    seconds = [run.seconds for run in runs]
    ends = {"fastest": round(min(seconds), 2), "slowest": round(max(seconds), 2)} if len(runs) > 1 else {}
    return {
        "tool": tool,
        "seconds": round(statistics.median(seconds), 2),
        "cpu_seconds": round(statistics.median(run.cpu_seconds for run in runs), 2),
        "peak_mib": round(max(run.most for run in runs) / MIB, 1),
        **ends,
        **more,
    }


def must(run: Measured) -> Measured:
    """A run that the others stand on."""
    if run.code:
        raise FailedError(run.why)
    return run


def warm(*folders: Path) -> None:
    """Read all files into the page cache."""
    buffer = bytearray(1 << 20)
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass


def emptied(folder: Path) -> Path:
    """The folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
