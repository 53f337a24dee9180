"""How much memory there is, and how much was used."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")  # of the container that this process is in


def available(device: str = "cpu") -> int:
    """Bytes that a process may still take on a device: free memory, or what limits on the process leave."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    bounds = [_free()]
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        used = _kilobytes(Path("/proc/self/status"), name, missing=0)
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            bounds.append(max(0, soft - used))
    return min(bounds)


def _free() -> int:
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    try:
        most = int((_CGROUP / "memory.max").read_text())  # "max" for no limit
        now = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return min(free, max(0, most - now + _page_cache()))


def _page_cache() -> int:
    """Bytes of files that the container's limit counts, and that the kernel lets go where memory is asked for."""
    try:
        told = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return int(told["inactive_file"]) + int(told["active_file"])
    except (OSError, ValueError, KeyError):
        return 0


def _kilobytes(path: Path, name: str, missing: int = 1 << 62) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return missing


def give_back() -> None:
    """Give back what was freed: garbage, what torch keeps of a GPU's memory, and what glibc keeps of the heap."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another libc has no such call
            ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    return _kilobytes(Path("/proc/self/status"), "VmRSS", missing=0)


def peak_resident() -> int:
    """The most bytes of memory that this process has held.

    Linux tells it of the process itself; `ru_maxrss` is that of the process that started it, where that is more.
    """
    status = Path("/proc/self/status")
    if told := _kilobytes(status, "VmHWM", missing=0):
        return told
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> bool:
    """Let `peak_resident` begin anew from what is held now; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory(device: str = "cpu") -> dict[str, int]:
    """The most this process has held so far: `resident_bytes`, and `cuda_bytes` of torch's allocator on that GPU."""
    peak = {"resident_bytes": peak_resident()}
    if device.startswith("cuda"):
        import torch

        peak["cuda_bytes"] = torch.cuda.max_memory_allocated(torch.device(device))
    return peak
