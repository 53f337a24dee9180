"""A model on vLLM that writes text, as the process that `prune.models.vllm.process` starts runs it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams, TokensPrompt


class Writer:
    """The engine of the model in the folder `model`; `options` are vLLM's."""

    def __init__(self, model: str, **options: Any) -> None:
        self.engine = LLM(model=model, **options)
        dtype = self.engine.llm_engine.model_config.dtype
        self.facts = {"dtype": str(dtype).removeprefix("torch.")}

    def answer(
        self, prompts: Sequence[Sequence[int]], most: int, sampling: dict[str, Any], ends: list[int], seed: int | None
    ) -> list[list[int]]:
        """What the model writes after each prompt, in tokens.

        Args:
            sampling: fields of vLLM's SamplingParams.
            ends: tokens that end an answer.
            seed: draws a seed for each prompt: with one for all, their tokens would be drawn alike.
        """
        draw = random.Random(seed)
        settings = [
            SamplingParams(
                **sampling,
                max_tokens=most,
                stop_token_ids=ends,
                detokenize=False,
                seed=None if seed is None else draw.getrandbits(31),
            )
            for _ in prompts
        ]
        asked = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        outputs = self.engine.generate(asked, sampling_params=settings, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]
