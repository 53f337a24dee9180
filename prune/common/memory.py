"""How much memory there is, and sizes as people write them."""

from __future__ import annotations

import re
import resource
from pathlib import Path

from prune.common.errors import UsageError

_UNITS = {"": 1 << 30, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str, *, option: str = "--max-memory") -> int:
    """`4GiB`, `800MB` or `4` (GiB) in bytes.

    Raises:
        UsageError: not of that form, or nothing at all.
    """
    match = _SIZE.fullmatch(text)
    unit = match[2].upper() if match else None
    size = int(float(match[1]) * _UNITS[unit]) if match and unit in _UNITS else 0
    if size <= 0:
        raise UsageError(f"{option} {text}: write a size such as 4GiB or 800MB")
    return size


def available(device: str = "cpu") -> int:
    """Bytes that a process may still take on a device: free memory, or what limits on the process leave."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    bounds = [_free()]
    for kind, used in ((resource.RLIMIT_AS, _own("VmSize")), (resource.RLIMIT_DATA, _own("VmData"))):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            bounds.append(max(0, soft - used))
    return min(bounds)


def _free() -> int:
    found = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    cgroup = Path("/sys/fs/cgroup/memory.max")
    try:
        most = cgroup.read_text().strip()
        now = int((cgroup.parent / "memory.current").read_text())
    except (OSError, ValueError):
        return found
    return found if most == "max" else min(found, max(0, int(most) - now))


def _own(name: str) -> int:
    return _kilobytes(Path("/proc/self/status"), name, missing=0)


def _kilobytes(path: Path, name: str, missing: int = 1 << 62) -> int:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return missing


def peak_memory(device: str = "cpu") -> dict[str, int]:
    """The most this process has held so far: `resident_bytes`, and `cuda_bytes` of torch's allocator on that GPU."""
    peak = {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if device.startswith("cuda"):
        import torch

        peak["cuda_bytes"] = torch.cuda.max_memory_allocated(torch.device(device))
    return peak
