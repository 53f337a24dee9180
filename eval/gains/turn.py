"""One turn of one model: loaded, counted and timed, in a process that holds nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eval.gains.orders import Turn, TurnOrder
from eval.gains.timing import time_generation
from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError
from prune.common.machine.memory import forget_peak, peak_resident, resident
from prune.models.loading import pick_device, read_config, text_config
from prune.models.memory.held import held_cache_bytes, held_weight_bytes
from prune.models.memory.skeleton import skeleton
from prune.models.precision import pick_dtype
from prune.models.spread import gpus
from prune.models.whole import load_whole

_WARM_TOKENS = 2  # written before the clock runs: kernels are loaded and memory is there then


def measure_turn(order: TurnOrder, parameters: int) -> Turn:
    """Load the model, write once to warm up, and once by the clock.

    The peak of memory is of what was held while it read and wrote, without what loading took for a while. On a CPU it
    is the process's, less what it held before the model; on GPUs that of torch's allocator, all of them together.

    Args:
        parameters: as `count_parameters` counts them.

    Raises:
        RegrowthError: the model cannot be loaded.
    """
    source, device = Source(Path(order.folder), order.name), pick_device(order.device)
    before = resident() or peak_resident()
    model = load_whole(
        source,
        dtype=pick_dtype(order.dtype, device=device),
        device=device,
        load_in_4bit=order.load_in_4bit,
        spread=order.spread,
    )
    prompts = draw_prompts(model, order)
    cards = [name for name, _ in gpus()] if order.spread else [device] if device.startswith("cuda") else []
    forget_peak()
    for card in cards:
        torch.cuda.reset_peak_memory_stats(card)

    def wait() -> None:
        for card in cards:
            torch.cuda.synchronize(card)
        if device == "mps":
            torch.mps.synchronize()

    time_generation(model, prompts, _WARM_TOKENS)
    timed = time_generation(model, prompts, order.new_tokens, wait=wait)
    if timed.cache is None:
        raise RegrowthError(f"{order.name}: its generation keeps no cache")
    peak = None if device == "mps" else peak_resident() - before
    if cards:
        peak = sum(torch.cuda.max_memory_allocated(card) for card in cards)
    return Turn(
        parameters=parameters,
        weight_bytes=held_weight_bytes(model),
        cache_bytes=held_cache_bytes(timed.cache),
        peak_memory_bytes=peak,
        prefill_seconds=timed.prefill_seconds,
        decode_seconds=timed.decode_seconds,
    )


def count_parameters(source: Source) -> int:
    """Values of a model's weights, tied ones once, counted without loading any.

    It also imports the model's class, so that this is no part of what a turn finds the model to take.

    Raises:
        CheckpointError: transformers cannot make such a model.
    """
    model = skeleton(read_config(source.folder, source.name), torch.float32, source.name)
    return sum(weight.numel() for weight in model.parameters())


def draw_prompts(model: Any, order: TurnOrder) -> torch.Tensor:
    """Token ids, shape (sequences, context), from the second quarter of the vocabulary, clear of special tokens."""
    words = text_config(model.config).vocab_size
    draw = torch.Generator().manual_seed(order.seed)
    low, high = words // 4, max(words // 4 + 1, words // 2)
    return torch.randint(low, high, (order.sequences, order.context), generator=draw).to(model.device)
