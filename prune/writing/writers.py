"""Who writes: a model on transformers, or on vLLM in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from prune.common.machine.out_of_memory import is_out_of_memory
from prune.models.fitting import rows_at_once
from prune.models.generation import USUAL, Sampling, VllmWriter, end_tokens, write_answers
from prune.models.loading import longest_context
from prune.writing.settings import AT_ONCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prune.checkpoint.source import Source

_PROMPT_ROOM = 2048  # tokens of a prompt that vLLM sets memory apart for, at least
_OTHER_HALF = 0x9E3779B9  # added to a batch's seed for half of it, where memory ran out; torch's CPU reads 32 bits


@dataclass(frozen=True)
class Writer:
    """A model that is ready to write.

    Attributes:
        write: prompts in tokens, the most tokens of an answer, and a seed -> the answers in tokens.
        ends: the tokens that end an answer.
        limit: tokens of a prompt and its answer; None where there is no bound.
        at_once: prompts a batch.
    """

    write: Callable[[Sequence[tuple[int, ...]], int, int | None], list[list[int]]]
    ends: list[int]
    limit: int | None
    at_once: int


def transformers_writer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int = 512,
    sampling: Sampling = USUAL,
) -> Writer:
    """A loaded model. On a GPU it writes as many answers at a time as fit; where memory runs out, half as many.

    Args:
        tokens: of a prompt and its answer, as far as is known.
    """

    def write(prompts: Sequence[tuple[int, ...]], most: int, seed: int | None) -> list[list[int]]:
        try:
            return write_answers(model, tokenizer, prompts, most, seed, sampling)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if len(prompts) < 2 or not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        half, other = len(prompts) // 2, None if seed is None else (seed + _OTHER_HALF) % (1 << 32)
        return write(prompts[:half], most, seed) + write(prompts[half:], most, other)

    at_once = rows_at_once(model, tokens, usual=AT_ONCE["hf"])
    return Writer(write, end_tokens(model, tokenizer), longest_context(model.config), at_once)


def vllm_limit(longest: int | None, row: int, answer_tokens: int) -> int:
    """Tokens of a prompt and its answer that vLLM sets memory apart for.

    Args:
        longest: what the model reads; None where there is no bound.
        row: tokens of the longest prompt that is known of.
    """
    return min(longest or sys.maxsize, max(_PROMPT_ROOM, row) + answer_tokens)


@contextmanager
def vllm_writer(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int,
    device: str,
    dtype: str,
    engine: Mapping[str, Any] | None = None,
    sampling: Sampling = USUAL,
) -> Iterator[Writer]:
    """The model on vLLM, in a process that ends with the block. What it raises: see `VllmWriter`.

    Args:
        limit: tokens of a prompt and its answer.
        engine: options of vLLM's engine.
    """
    writer = VllmWriter(
        source, tokenizer, max_length=limit, device=device, dtype=dtype, engine=engine, sampling=sampling
    )
    with closing(writer):
        yield Writer(writer.write, writer.ends, limit, AT_ONCE["vllm"])
