"""A command that may take no more than so much memory. Two guards stand outside it, and it cannot move them.

The kernel: RLIMIT_DATA counts what is private and may be written (heap, anonymous maps, the libraries' own), whether
it is used or not. It also counts a file that is mapped privately, as safetensors maps checkpoints, though no page of
it is the process's own, and the address space that an allocator only reserves: a command with these is given their
size on top.

The watcher: it adds up the anonymous and shared pages that are resident (RssAnon, RssShmem) in the command and the
processes that it started, every few milliseconds, and kills them when they pass the cap. Pages of files are left out:
the kernel takes them back when memory is short, and on a GPU they would be no part of the card. Needs no rights and no
cgroup. A peak that is shorter than its pause may escape the watcher, but not the kernel.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
_PAUSE = 0.01  # seconds between two looks
# glibc keeps freed blocks of up to 32 MiB, in pieces that fit nothing; with this it gives every block back at once.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}


@dataclass(frozen=True)
class Outcome:
    """How a command went. most: bytes that it held at its peak. killed: the watcher ended it. said: its stderr."""

    code: int
    most: int
    killed: bool
    said: str
    seconds: float


def environment() -> dict[str, str]:
    """In which a command runs, and its libraries are measured: this tree, one core, freed memory given back."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | _GIVE_BACK


def run_capped(words: Sequence[str], *, cap: int | None, mapped: int = 0) -> Outcome:
    """Run `python WORDS` under a cap in bytes; None: it is only watched.

    Args:
        mapped: bytes that the kernel counts though it does not hold them: files mapped privately, reserved space.
    """
    limit = None if cap is None else cap + mapped
    keep = None if limit is None else partial(resource.setrlimit, resource.RLIMIT_DATA, (limit, limit))
    began, most, killed = time.monotonic(), 0, False
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=errors,
            preexec_fn=keep, start_new_session=True,
        )  # fmt: skip
        while child.poll() is None:
            most = max(most, held_by_all(child.pid))
            if cap is not None and most > cap:
                killed = True
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            time.sleep(_PAUSE)
        errors.seek(0)
        said = errors.read()
    return Outcome(child.returncode, most, killed, said, time.monotonic() - began)


def held_by_all(process: int) -> int:
    """Bytes that a process and all that come from it hold; what one shares with another is counted once."""
    members = list(_family(process))
    if len(members) == 1:
        return held(process)
    return sum(_kilobytes(f"/proc/{member}/smaps_rollup", "Pss_Anon:", "Pss_Shmem:") for member in members) << 10


def held(process: int) -> int:
    """Bytes of a process that are resident and of no file; 0 where it has ended."""
    return _kilobytes(f"/proc/{process}/status", "RssAnon:", "RssShmem:") << 10


def reserved(process: int) -> int:
    """Bytes of a process that RLIMIT_DATA counts, held or not."""
    return _kilobytes(f"/proc/{process}/status", "VmData:") << 10


def _family(process: int) -> Iterator[int]:
    yield process
    try:
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))
    except OSError:  # it has ended
        pass


def _kilobytes(path: str, *names: str) -> int:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))
