"""What torch's allocator hands out while its profiler looks."""

from __future__ import annotations

from torch._C._profiler import _EventType
from torch.profiler import profile


def allocated_peak(seen: profile) -> int:
    """The peak in bytes of what was handed out within a profile that was taken with `profile_memory=True`."""
    waiting, changes = list(seen.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.typed[0] == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    held: dict[int, int] = {}
    now = peak = 0
    for _, place, size in sorted(changes):
        if size > 0:
            now += size - held.get(place, 0)
            held[place] = size
        else:  # of what was there before, the profiler also tells blocks at a place that an earlier profile saw
            now -= held.pop(place, 0)
        peak = max(peak, now)
    return peak
