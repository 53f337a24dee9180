"""The cards that a budget answers for: what they hold, how fast they are, and which one is here. No torch is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from heal.budget.cost import spread_memory
from heal.budget.document import Gpu
from prune.common.errors import UsageError
from prune.common.machine.memory import available
from prune.models.memory.footprint import GIB

CPU = "cpu"
_NEW = 8  # first number of the compute capability from which on a card has products in bf16
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
    """The first of `cards_here`; None where there is none."""
    return next(iter(cards_here()), None)


def cards_here() -> tuple[Gpu, ...]:
    """The GPUs that a process may use, in its order, each with the memory that is free now.

    The driver's own tool tells them, without torch, and in the order of their places (CUDA's own order may be another
    where they differ: CUDA_DEVICE_ORDER=PCI_BUS_ID makes them one). CUDA_VISIBLE_DEVICES picks from them, by numbers or
    by the beginnings of their names; it cannot name a part of one (MIG). One that is not in the list of cards is taken
    at an A100's speed.
    """
    tool = shutil.which("nvidia-smi")
    return () if tool is None else tuple(card for _, card in _visible(_ask(tool)))


_Told = tuple[str, Gpu]  # a card's own name (UUID), and what it is


def _visible(told: Sequence[_Told]) -> Iterator[_Told]:
    """Those that CUDA_VISIBLE_DEVICES names; as CUDA does, the first that is none ends the list."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        yield from told
        return
    for word in map(str.strip, wanted.split(",")):
        if word.isdecimal():
            found = [*told[int(word) : int(word) + 1]]
        else:
            found = [one for one in told if word and one[0].startswith(word)]
        if len(found) != 1:
            return
        yield found[0]


def _ask(tool: str) -> tuple[_Told, ...]:
    fields = "uuid,name,memory.total,memory.free"
    told = _answer(tool, f"{fields},compute_cap") or _answer(tool, fields)  # older drivers do not know the last
    return tuple(card for line in told.splitlines() for card in _card(line))


def _answer(tool: str, fields: str) -> str:
    asked = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _card(line: str) -> Iterator[_Told]:
    """The card that one line tells of; none where it cannot be read."""
    uuid, *rest = (part.strip() for part in line.split(","))
    if len(rest) not in (3, 4) or not (rest[1].isdecimal() and rest[2].isdecimal()):
        return
    name, whole, free = rest[0], int(rest[1]) << 20, int(rest[2]) << 20
    told_name = _words(name)
    models = {card: re.sub(r"-[0-9]+gb$", "", _words(card.name)) for card in GPUS}
    alike = [card for card, model in models.items() if re.match(rf"{model}(?![0-9])", told_name)]
    nearest = min(alike, key=lambda card: abs(card.memory - whole), default=_MINE)
    first = rest[3].partition(".")[0] if len(rest) == 4 else ""
    new = not first.isdecimal() or int(first) >= _NEW
    yield uuid, nearest.model_copy(update={"name": name, "memory": free, "here": True, "bfloat16": new})


def card_at(device: str = "auto", *, spread: bool = False) -> Gpu:
    """The card that a command runs on here: its `--device`, or all of them together; the CPU where there is none."""
    cards = cards_here()
    if not cards or device.startswith(CPU):
        return cpu()
    if spread:
        return together(cards)
    number = device.partition(":")[2]
    return cards[int(number)] if number.isdecimal() and int(number) < len(cards) else cards[0]


def together(cards: Sequence[Gpu]) -> Gpu:
    """Several cards as the one that they are where a model is spread over them: the room of all, the speed of one."""
    if len(cards) == 1:
        return cards[0]
    first, memory = cards[0], spread_memory([card.memory for card in cards])
    names = dict.fromkeys(card.name for card in cards)
    name = f"{len(cards)} x {first.name}" if len(names) == 1 else " + ".join(card.name for card in cards)
    narrow = all(card.bfloat16 for card in cards)
    return first.model_copy(update={"name": name, "memory": memory, "bfloat16": narrow})


def cpu() -> Gpu:
    """This machine without a GPU: the memory that is free, and what its cores are taken to reach. It asks torch."""
    from prune.models.precision import multiplies_bfloat16

    # macOS does not say which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = {"here": True, "bfloat16": multiplies_bfloat16("cpu")}
    return Gpu(name=CPU, memory=available(), peak=_CPU_PEAK * cores, share=0.5, bandwidth=20e9, **here)
