"""What all steps share: the machine they run on, and rows of time and memory."""

from __future__ import annotations

import gc
import json
import resource
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

GIB = 1 << 30
PEAK_FLOPS = 989e12  # a second, dense bf16, of an H100 or H200 by its datasheet


@dataclass(frozen=True)
class Machine:
    """Where a step runs. `work`: a folder for models, shared by the steps of a call."""

    tiny: bool
    device: str
    work: Path

    @classmethod
    def find(cls, *, tiny: bool, work: Path) -> Machine:
        if not tiny and not torch.cuda.is_available():
            raise SystemExit("no CUDA device here; --tiny runs on a CPU")
        return cls(tiny, "cpu" if tiny else "cuda", work)

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def pick(self, tiny: Any, full: Any) -> Any:
        """The size of a measurement: of a tiny run, or of one on a GPU."""
        return tiny if self.tiny else full

    def wait(self) -> None:
        """Until the GPU has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def forget(self) -> None:
        """Give memory back, and forget the peak."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, float]:
        """GiB: on a GPU of torch's allocator, else the process's resident memory."""
        if not self.cuda:
            return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
        return {"peak": torch.cuda.max_memory_allocated() / GIB, "reserved": torch.cuda.max_memory_reserved() / GIB}

    def mean_seconds(self, run: Any, times: int) -> float:
        """Of several calls between two synchronisations, after two that warm up."""
        for _ in range(2):
            run()
        self.wait()
        began = time.monotonic()
        for _ in range(times):
            run()
        self.wait()
        return (time.monotonic() - began) / times


def row(what: str, **facts: Any) -> None:
    """Print one row for the process that started this one."""
    print("ROW " + json.dumps({"what": what, **facts}), flush=True)


def failure_note(error: Exception) -> dict[str, Any]:
    """A row's note of an error. Memory that ran out is an answer; anything else is a failure."""
    lines = str(error).splitlines() or [""]
    out_of_memory = isinstance(error, torch.OutOfMemoryError)
    return {"note": f"{type(error).__name__}: {lines[0][:120]}", **({} if out_of_memory else {"failed": True})}


@contextmanager
def measured(
    machine: Machine, what: str, tokens: int | None = None, flops: float | None = None
) -> Iterator[dict[str, Any]]:
    """Time a block between two synchronisations and print its row; an error becomes the row's note.

    The block may put facts of its own into what is yielded, `seconds` too.
    """
    machine.forget()
    facts: dict[str, Any] = {}
    began = time.monotonic()
    try:
        yield facts
        machine.wait()
    except Exception as error:
        traceback.print_exc()
        row(what, seconds=time.monotonic() - began, **machine.peaks(), **failure_note(error))
        return
    seconds = facts.setdefault("seconds", time.monotonic() - began)
    if tokens:
        facts["rate"] = tokens / seconds
    if flops:
        facts["share"] = f"{flops / seconds / PEAK_FLOPS:.0%}"
    row(what, **machine.peaks(), **facts)
