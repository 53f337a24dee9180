"""One comparison: what ran, how long, how much memory and disk, and its result as bench/results/NAME.json."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.shared.capped import held_by_all

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
WORK = ROOT / "build" / "peers"
THREADS = min(2, len(os.sched_getaffinity(0)))  # of every command that is measured
_PAUSE = 0.02  # seconds between two looks at the memory


@dataclass(frozen=True)
class Measured:
    """A command that ended. seconds: wall time. cpu_seconds: of it and its children. most: bytes at the peak.

    Memory is anonymous and shared pages of the whole process tree; pages of mapped files are left out for every tool.
    """

    code: int
    seconds: float
    cpu_seconds: float
    most: int
    said: str

    @property
    def why(self) -> str:
        """What a command that failed said last of an error, or that it was stopped."""
        if self.code == -9:
            return f"stopped after {self.seconds:.0f} s"
        said = [line.strip() for line in self.said.splitlines() if line.strip()]
        told = next((line for line in reversed(said) if "rror" in line), said[-1] if said else f"exit code {self.code}")
        return told[:300]


def measure(
    words: Sequence[object], *, limit_s: float, variables: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Measured:
    """Run it to its end, or to the limit: then it is killed, and its code is -9.

    OMP_NUM_THREADS is `THREADS` unless `variables` has another; PYTHONPATH is unset unless it is given.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": str(THREADS)} | dict(variables or {})
    began, most = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output, ExitStack() as at_end:
        child = subprocess.Popen(
            [str(word) for word in words], cwd=cwd, env=environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        at_end.callback(_end, child)
        used = None
        while used is None:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.returncode, used = os.waitstatus_to_exitcode(status), usage
                break
            looked = time.monotonic()
            most = max(most, held_by_all(child.pid))
            if time.monotonic() - began > limit_s:
                os.killpg(child.pid, signal.SIGKILL)
            time.sleep(max(_PAUSE, 9 * (time.monotonic() - looked)))  # a tenth of a core at most
        seconds = time.monotonic() - began
        output.seek(0)
        said = output.read()
    return Measured(child.returncode, seconds, used.ru_utime + used.ru_stime, most, said)


def _end(child: subprocess.Popen) -> None:
    """Of a command that was interrupted: it is in a session of its own, and would run on."""
    if child.returncode is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def bytes_under(folder: Path) -> int:
    """What a folder takes on the disk."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def machine() -> dict[str, object]:
    """What the figures hang on; no names of hosts or folders."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": name,
        "cores": len(os.sched_getaffinity(0)),
        "avx512_bf16": "avx512_bf16" in flags,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        "python": platform.python_version(),
    }


def write(name: str, job: str, rows: Sequence[Mapping[str, object]], *, settings: Mapping[str, object]) -> Path:
    """Write one comparison.

    Args:
        name: of the file, and of the comparison in the table.
        job: what was done, in a few words.
        rows: one for each tool, Regrowth first. `tool` is its name and version. `seconds`, `peak_mib`, `disk_mib` and
            more figures as numbers; `not_run` is the reason why there are none.
        settings: what the tools had in common.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    found = {"name": name, "job": job, "machine": machine(), "settings": dict(settings), "rows": list(rows)}
    found["load_average"] = round(os.getloadavg()[1], 1)  # of five minutes: above the cores, something else ran too
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path
