"""One job by many processes, as torchrun and `accelerate launch` start them: each takes a share of it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from prune.common.errors import UsageError

# How long a process waits for the others in a collective: while one lets a model write text, it is hours. One that
# died is no reason to give up early: the launcher ends the others.
PATIENCE = timedelta(days=7)


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) where no launcher has set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes and prints."""
    return rank_and_world()[0] == 0


def sharded() -> bool:
    """Whether `accelerate launch` has asked for FSDP: each process then holds a share of every weight."""
    return rank_and_world()[1] > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def local_device(device: str) -> str:
    """Each process's own CUDA device where several share a machine; anything else as it is.

    Raises:
        UsageError: one CUDA device is named for several processes.
    """
    processes = rank_and_world()[1]
    if processes == 1:
        return device
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device} is one GPU, and {processes} processes were started: use --device cuda, which gives "
            "each its own"
        )
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their numbers, in every one of them."""
    _, world = rank_and_world()
    if world == 1:
        return [value]
    import torch.distributed as dist

    mine = not dist.is_initialized()
    if mine:
        # sums travel once, at the end; no device's own transport is worth its setup
        dist.init_process_group("gloo", timeout=PATIENCE)
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    if mine:
        dist.destroy_process_group()
    return values
