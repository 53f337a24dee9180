"""Where the layers of one model go that several GPUs hold together: dealt out in their order, all else on the first.

The cards work one after the other, at the speed of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError, UsageError
from prune.common.machine.memory import peak_memory
from prune.common.machine.processes import rank_and_world
from prune.models.loading import decoder_layers, read_config

_FOR_LOGITS = 2 << 30  # bytes that pieces of the logits and what libraries take for themselves may need


def check_spread(device_map: str | None, device: str) -> None:
    """Refuse a map of layers to GPUs that this process cannot follow.

    Raises:
        UsageError: a map that is unknown, or that does not go with the device or a launcher.
    """
    if device_map is None:
        return
    if device_map != "auto":
        raise UsageError(f"--device-map {device_map} is unknown; auto spreads the layers over all GPUs")
    if rank_and_world()[1] > 1:
        raise UsageError("--device-map spreads the model of one process; leave it out, or start without a launcher")
    if device not in ("auto", "cuda"):
        raise UsageError(f"--device-map auto takes all GPUs, and --device {device} names one device; leave one out")
    if len(gpus()) < 2:
        raise UsageError(f"--device-map auto spreads a model over GPUs, and there are {len(gpus())}; leave it out")


def gpus() -> list[tuple[str, int]]:
    """Every GPU and its free bytes."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [(f"cuda:{number}", int(torch.cuda.mem_get_info(number)[0])) for number in range(count)]


def peak_over(device: str) -> dict[str, int]:
    """`peak_memory`; where a model may be spread over GPUs, `cuda_bytes` is the most that any held.

    Each must have room for its own, so a sum would say nothing of whether a run fits.
    """
    if not device.startswith("cuda"):
        return peak_memory(device)
    # Every GPU: one that this process has not used held nothing. Asking for free memory would make a context on each.
    peaks = [peak_memory(f"cuda:{number}") for number in range(torch.cuda.device_count())]
    return {name: max(peak[name] for peak in peaks) for name in peaks[0]}


def place_layers(
    source: Source, *, bits: int, dtype: torch.dtype, fewer: str = "fewer --bits", trust_remote_code: bool = False
) -> dict[str, str]:
    """Where each part of a model goes: module -> GPU, as `from_pretrained(device_map=)` takes it.

    Args:
        bits: of the projections.
        dtype: of all else.
        fewer: what takes less room, for the message.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        CheckpointError: transformers cannot make the model of its config.
        RegrowthError: the GPUs together have no room for its weights.
    """
    from prune.models.memory.skeleton import skeleton

    config = read_config(source.folder, source.name, trust_remote_code=trust_remote_code)
    empty = skeleton(config, dtype, source.name, trust_remote_code=trust_remote_code)
    layers, places = decoder_layers(empty), gpus()
    value = dtype.itemsize if bits == 16 else bits / 8 * 1.04  # with scales
    size = max(int(value * sum(weight.numel() for weight in layer.parameters())) for layer in layers)
    others = sum(weight.numel() for weight in empty.parameters()) - sum(w.numel() for w in layers.parameters())
    rooms = [free for _, free in places]
    rooms[0] -= others * dtype.itemsize + _FOR_LOGITS
    shares = share_layers(len(layers), size, rooms)
    if shares is None:
        weights = len(layers) * size + others * dtype.itemsize
        raise RegrowthError(
            f"the {weights / 2**30:.1f} GiB of {source.name} do not fit on {len(places)} GPUs with "
            f"{sum(free for _, free in places) / 2**30:.1f} GiB free; use {fewer} or more GPUs"
        )
    homes = [device for (device, _), share in zip(places, shares, strict=True) for _ in range(share)]
    numbers = {layer: number for number, layer in enumerate(layers)}
    parts = parts_of(empty, layers)
    return {name: homes[numbers[part]] if part in numbers else places[0][0] for name, part in parts}


def share_layers(count: int, size: int, rooms: Sequence[int]) -> list[int] | None:
    """How many layers go to each place, by the room there: what stays free takes activations, which go by layers too.

    Args:
        size: bytes of a layer's weights.
        rooms: bytes in each place; may be negative.

    Returns:
        None where there is no room for all.
    """
    most = [max(0, room) // size for room in rooms]
    if sum(most) < count:
        return None
    total = sum(max(0, room) for room in rooms)
    shares = [min(bound, count * max(0, room) // total) for bound, room in zip(most, rooms, strict=True)]
    while sum(shares) < count:
        free = [room - share * size for room, share in zip(rooms, shares, strict=True)]
        place = max((index for index, bound in enumerate(most) if shares[index] < bound), key=lambda index: free[index])
        shares[place] += 1
    return shares


def parts_of(root: torch.nn.Module, layers: torch.nn.ModuleList, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The decoder layers, and the largest modules and single parameters beside them, by their names."""
    for name, _ in (*root.named_parameters(recurse=False), *root.named_buffers(recurse=False)):
        yield prefix + name, torch.nn.Module()
    for name, child in root.named_children():
        if child is not layers and any(module is layers for module in child.modules()):
            yield from parts_of(child, layers, f"{prefix}{name}.")
        elif child is layers:
            yield from ((f"{prefix}{name}.{number}", layer) for number, layer in enumerate(layers))
        else:
            yield prefix + name, child
