"""Speed and memory on one GPU at the shapes of Llama-3-8B and -70B: random weights, no network, one call.

    python bench/gpu.py                          on a machine with a GPU; stops by itself after --seconds
    python bench/gpu.py --steps healing_8b,files
    python bench/gpu.py --tiny                   all steps on a CPU with a model of 64 channels, to test this script
    bash bench/gpu.sh prepare                    packs what a machine lacks that has torch, transformers and peft

Each step runs in a process of its own, so that its peak of memory is its own. It prints a row as soon as one is
measured, so a step that runs out of time keeps what it had. All rows go to --out as JSON, what the steps say goes to a
log beside it, and a Markdown table ends the run. Where OUT names a folder, both go there unless --out says otherwise.

"share of peak" refers to 989 TFLOP/s (an H100's or H200's dense bf16 products). FLOPs are counted as `heal budget`
counts them: what checkpointing computes anew counts too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for bench.gpu_steps

from bench.gpu_steps import STEPS

_PATIENCE = 3  # times what a step is expected to take: one that hangs leaves time for the others
_ROOM = 50 << 30  # bytes that the checkpoints of an 8B model take, and some more
_COLUMNS = {
    "step": "step", "what": "what", "seconds": "s", "rate": "tokens/s", "share": "share of peak", "peak": "peak GiB",
    "reserved": "reserved GiB", "budget": "heal budget GiB", "note": "note",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default=",".join(STEPS), help="which, in this order: %(default)s")
    parser.add_argument("--seconds", type=float, default=530.0, help="for all steps together")
    parser.add_argument("--tiny", action="store_true", help="a model of 64 channels on a CPU, all in one process")
    parser.add_argument("--work", type=Path, help="where models are written, 45 GB; shared memory if it has room")
    place = Path(os.environ.get("OUT") or "runs/bench")  # OUT: what a lent machine sends back
    parser.add_argument("--out", type=Path, default=place / "gpu.json")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # steps to run in this process
    asked = parser.parse_args()
    unknown = set((asked.run or asked.steps).split(",")) - set(STEPS)
    if unknown:
        parser.error(f"--steps {','.join(sorted(unknown))}: use {', '.join(STEPS)}")
    if asked.run:
        run_here(asked)
    else:
        run_all(asked)


def run_here(asked: argparse.Namespace) -> None:
    """Run steps in this process; their rows go to stdout."""
    from bench.gpu_steps.measuring import Machine

    machine = Machine.find(tiny=asked.tiny, work=asked.work)
    for name in asked.run.split(","):
        print(f"STEP {name}", flush=True)
        STEPS[name].load()(machine)


def run_all(asked: argparse.Namespace) -> None:
    """Start a process for each step, as long as there is time, and print the table."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="regrowth-gpu-", dir=asked.work or roomy_folder()))
    names = asked.steps.split(",")
    try:
        with asked.out.with_suffix(".log").open("w") as log:
            for group in [names] if asked.tiny else [[name] for name in names]:
                left = asked.seconds - (time.monotonic() - began)
                if not asked.tiny and left < STEPS[group[0]].seconds:
                    rows.append({"step": group[0], "what": "left out", "note": f"{left:.0f} s were left"})
                    continue
                most = left if asked.tiny else min(left, _PATIENCE * STEPS[group[0]].seconds)
                for row in run_process(group, asked.tiny, work, most, log):
                    rows.append(row)
                    asked.out.write_text(json.dumps(rows, indent=1) + "\n")  # whoever stops this run keeps them
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table(rows))
    print(f"{time.monotonic() - began:.0f} s in all; rows in {asked.out}")
    if any(row.get("failed") for row in rows):
        raise SystemExit(f"some steps failed; see {asked.out.with_suffix('.log')}")


def run_process(names: list[str], tiny: bool, work: Path, seconds: float, log: TextIO) -> Iterator[dict[str, Any]]:
    """Run steps in a new process for `seconds` at most, and give its rows as they come."""
    command = [sys.executable, __file__, "--run", ",".join(names), "--work", str(work), *(["--tiny"] if tiny else [])]
    quiet = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment = {**os.environ, **quiet, "PYTHONUNBUFFERED": "1"}
    began, step = time.monotonic(), names[0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
        assert process.stdout is not None
        clock = threading.Timer(max(5.0, seconds), process.kill)
        clock.start()
        for line in process.stdout:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "STEP":
                step = rest
            elif kind == "ROW":
                row = {"step": step, **json.loads(rest)}
                print("  ".join(f"{key}={shown(value)}" for key, value in row.items()), file=sys.stderr, flush=True)
                yield row
            else:
                log.write(line)
        code = process.wait()
        clock.cancel()
    if code:
        why = "out of time" if code < 0 else f"ended with {code}, see the log"
        yield {"step": step, "what": "-", "note": why, "failed": code > 0}
    yield {"step": ", ".join(names), "what": "whole process", "seconds": round(time.monotonic() - began, 1)}


def roomy_folder() -> str | None:
    """Shared memory where it holds the checkpoints, so that no disk is measured; else the usual temporary folder."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > _ROOM else None


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(_COLUMNS.values()) + " |", "|" + "---|" * len(_COLUMNS)]
    lines += ["| " + " | ".join(shown(row.get(key)) for key in _COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    main()
