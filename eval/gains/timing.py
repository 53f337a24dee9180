"""How long a model takes to read prompts, and to write after them. The clock is given, so that a test may have its own.

A prompt is read in one forward pass, which makes the first new token. Each further token is a pass of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from prune.models.memory.kv_cache import cache_of


@dataclass(frozen=True)
class Timed:
    """Seconds of the pass over all prompts, seconds of the passes after it, and the cache that they filled."""

    prefill_seconds: float
    decode_seconds: float
    cache: Any


def time_generation(
    model: Any,
    prompts: torch.Tensor,
    new_tokens: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[], None] = lambda: None,
) -> Timed:
    """Let `generate` of transformers write after the prompts, always the likeliest token, and take the time.

    Args:
        prompts: token ids, shape (sequences, context).
        new_tokens: passes after the first; one token of each sequence every time.
        wait: returns when the device has done all that it was given.
    """
    from transformers import GenerationConfig

    marks: list[float] = []

    def begin(*_: Any) -> None:
        if not marks:
            wait()
            marks.append(clock())

    def end(*_: Any) -> None:
        if len(marks) == 1:
            wait()
            marks.append(clock())

    how = GenerationConfig(
        do_sample=False,
        num_beams=1,
        min_new_tokens=new_tokens + 1,  # an end that the model writes ends nothing
        max_new_tokens=new_tokens + 1,
        pad_token_id=0,
        use_cache=True,
        return_dict_in_generate=True,
        disable_compile=True,
    )
    hooks = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        with torch.no_grad():
            mask = torch.ones_like(prompts)
            output = model.generate(input_ids=prompts, attention_mask=mask, generation_config=how)
        wait()
        marks.append(clock())
    finally:
        for hook in hooks:
            hook.remove()
    first, read, written = marks
    return Timed(read - first, written - read, cache_of(output))
