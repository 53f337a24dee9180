"""What a model takes that is loaded and asked, beside what `prune cut --fit` reckons of it."""

from __future__ import annotations

import torch

from bench.gpu_steps.measuring import GIB, Machine, measured
from bench.gpu_steps.random_models import random_model
from bench.gpu_steps.shapes import config_of, small


def fit(machine: Machine) -> None:
    """A prompt in one pass and in chunks: the allocator's peak, and weights, cache and work as they are reckoned.

    Torch's allocator has a peak on a GPU alone; on a CPU the rows show only that the script runs.
    """
    from prune.models.memory.kv_cache import cache_bytes, layer_caches
    from prune.models.memory.skeleton import skeleton
    from prune.models.memory.weights import loaded_weights
    from prune.models.memory.work import prompt_work

    shape = small(machine)
    tokens, sequences = machine.pick((256, 2), (8192, 2))
    model = random_model(machine, shape, 16)
    empty = skeleton(config_of(shape), model.dtype, shape)
    caches = layer_caches(empty, shape)
    weights = loaded_weights(empty, 16)
    held = sum(weights.layers) + weights.outside + cache_bytes(caches, tokens, sequences)
    ids = torch.arange(tokens * sequences, device=machine.device).reshape(sequences, tokens) % 900
    for chunk in (tokens, tokens // 8):
        work = prompt_work(empty, shape, caches, tokens=tokens, sequences=sequences, chunk=chunk)
        reckoned = held + work.peak(range(len(caches)))
        with measured(machine, f"prompts of {tokens} tokens, {chunk} at a time", tokens * sequences) as facts:
            with torch.no_grad():
                cache = None
                for first in range(0, tokens, chunk):
                    part = ids[:, first : first + chunk]
                    answer = model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    cache = answer.past_key_values
                answer.logits[:, -1].to(dtype=torch.float32, copy=True)
            facts["budget"] = reckoned / GIB
            if machine.cuda:
                facts["note"] = (
                    f"reckoned is {reckoned / torch.cuda.max_memory_allocated() - 1:+.1%} of the allocator's"
                )
            del answer, cache
