"""The cards that a budget answers for: what they hold, how fast they are, and which one is here. No torch is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache

from heal.budget.document import Gpu
from prune.common.errors import UsageError
from prune.common.memory import available
from prune.models.footprint import GIB

CPU = "cpu"
_CPU_PEAK = 80e9  # FLOP/s of one core: products in float32 with AVX2


def _gpu(name: str, gib: float, tflops: float, share: float, bandwidth: float) -> Gpu:
    return Gpu(name=name, memory=round(gib * GIB), peak=tflops * 1e12, share=share, bandwidth=bandwidth * 1e9)


# Sizes are what a program sees. Peaks are dense bf16 products with fp32 sums, bandwidths those of the memory, both as
# the makers' sheets have them. The share falls where memory is not faster in proportion.
GPUS = (
    _gpu("A10", 22.1, 125, 0.35, 600),
    _gpu("L4", 22.0, 121, 0.30, 300),
    _gpu("RTX-4090", 23.5, 165, 0.40, 1008),
    _gpu("RTX-5090", 31.3, 209, 0.40, 1792),
    _gpu("L40S", 44.4, 362, 0.30, 864),
    _gpu("A100-40GB", 39.4, 312, 0.35, 1555),
    _gpu("A100-80GB", 79.1, 312, 0.35, 2039),
    _gpu("H100-80GB", 79.1, 989, 0.30, 3350),
    _gpu("H200", 139.8, 989, 0.30, 4800),
    _gpu("B200", 178.0, 2250, 0.25, 8000),
)
_MINE = GPUS[5]  # its speed, where only a size is named


def pick_card(name: str | None, memory: int | None = None) -> Gpu | None:
    """The card that is asked for: by its name, by its size, or the one that is here.

    Args:
        name: as in `GPUS`, however it is spelt (`rtx4090`, `A100 80GB`); `cpu`; None for the one that is here.
        memory: bytes, in the place of those that the card has; without a name, at the speed of an A100.

    Returns:
        None where none is asked for and none is here.

    Raises:
        UsageError: no such card, or a name that fits several.
    """
    if name is None and memory is not None:
        return _MINE.model_copy(update={"name": "yours", "memory": memory})
    card = card_here() if name is None else _named(name)
    if card is None or memory is None:
        return card
    return card.model_copy(update={"memory": memory})


def _named(name: str) -> Gpu:
    wanted = _plain(name)
    if wanted == CPU:
        return cpu()
    matching = [card for card in GPUS if wanted and _plain(card.name).startswith(wanted)]
    exact = [card for card in matching if _plain(card.name) == wanted]
    if len(exact or matching) == 1:
        return (exact or matching)[0]
    if matching:
        raise UsageError(f"--card {name}: use {' or '.join(card.name for card in matching)}")
    known = ", ".join(card.name for card in GPUS)
    raise UsageError(f"--card {name} is unknown; use {known} or cpu, or --gpu-memory 40GiB for a size of your own")


def _words(name: str) -> str:
    """`NVIDIA GeForce RTX 4090` -> `rtx-4090`."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "-".join(word for word in words if word and word not in ("nvidia", "geforce", "tesla"))


def _plain(name: str) -> str:
    return _words(name).replace("-", "")


def card_here() -> Gpu | None:
    """The first GPU that the driver's own tool tells of; None where there is neither.

    One that is not in the list is taken at an A100's speed.
    """
    tool = shutil.which("nvidia-smi")
    return None if tool is None else _ask(tool)


@cache
def _ask(tool: str) -> Gpu | None:
    asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, size = (told.splitlines() or [""])[0].rpartition(",")
    if not name or not size.strip().isdigit():
        return None
    memory, told_name = int(size) << 20, _words(name)
    models = {card: re.sub(r"-[0-9]+gb$", "", _words(card.name)) for card in GPUS}
    alike = [card for card, model in models.items() if re.match(rf"{model}(?![0-9])", told_name)]
    nearest = min(alike, key=lambda card: abs(card.memory - memory), default=_MINE)
    return nearest.model_copy(update={"name": name.strip(), "memory": memory})


def cpu() -> Gpu:
    """This machine without a GPU: the memory that is free, and what its cores are taken to reach."""
    cores = len(os.sched_getaffinity(0))
    return Gpu(name=CPU, memory=available(), peak=_CPU_PEAK * cores, share=0.5, bandwidth=20e9)
