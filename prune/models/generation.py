"""Text that a model writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_CANDIDATES = 0.95  # top-p: without a bound, one token in many is noise that the student would learn


@torch.no_grad()
def write_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    most: int,
    seed: int,
) -> list[list[int]]:
    """What the model writes after each prompt, up to and with the token that ends it."""
    from transformers import GenerationConfig

    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    how = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=_CANDIDATES,
        max_new_tokens=most,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)[:, width:].tolist()
    return [_up_to_end(answer, ends) for answer in written]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: the generation config's, or the tokenizer's EOS."""
    named = getattr(model.generation_config, "eos_token_id", None)
    named = tokenizer.eos_token_id if named is None else named
    return [] if named is None else named if isinstance(named, list) else [named]


def _up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    return ids if stop is None else ids[: stop + 1]
