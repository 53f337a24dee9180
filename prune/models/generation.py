"""Text that a model writes itself, by transformers or by vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from prune.checkpoint.source import Source
from prune.models.vllm.options import engine_device
from prune.models.vllm.process import VllmProcess, engine_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SERVE = ("prune.models.vllm.writer", "Writer")


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: at a temperature, from the likeliest `top_p` of the probability and `top_k` tokens.

    A `top_k` of 0 is no bound. Without a bound, one token in many is noise that a student would learn.
    """

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 0


USUAL = Sampling()


@torch.no_grad()
def write_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    most: int,
    seed: int | None,
    sampling: Sampling = USUAL,
) -> list[list[int]]:
    """What the model writes after each prompt, up to and with the token that ends it.

    Args:
        most: tokens of an answer.
        seed: of what is drawn; None: always the likeliest token.
    """
    from transformers import GenerationConfig

    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends[0] if ends else 0)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    drawn = {"do_sample": True, **asdict(sampling)}
    how = GenerationConfig(
        **({} if seed is None else drawn),
        max_new_tokens=most,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        if seed is not None:
            torch.manual_seed(seed)
        written = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)[:, width:].tolist()
    return [_up_to_end(answer, ends) for answer in written]


class VllmWriter:
    """A model that writes by vLLM, in a process of its own; `close` ends it.

    Args:
        max_length: tokens of prompt and answer.
        device, dtype: as on the command line.
        engine: options of vLLM's engine, from `prune.models.vllm.options.parse_engine_options`.
        sampling: how tokens are drawn.

    Attributes:
        ends: the tokens that end an answer.

    Raises:
        RegrowthError: vLLM is not installed, or the device cannot be used.
        CheckpointError: vLLM cannot load the model.
    """

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        device: str = "auto",
        dtype: str = "auto",
        engine: Mapping[str, Any] | None = None,
        sampling: Sampling = USUAL,
    ) -> None:
        from transformers import GenerationConfig

        device, self._sampling = engine_device(device), sampling
        stated = (source.folder / "generation_config.json").is_file()
        self.ends = _ends(GenerationConfig.from_pretrained(source.folder) if stated else None, tokenizer)
        options = engine_options(device, dtype=dtype, max_length=max_length, seed=0, more=engine)
        self._engine = VllmProcess(_SERVE, source, {"model": str(source.folder), **options}, device=device)
        self.close = self._engine.close

    def write(self, prompts: Sequence[tuple[int, ...]], most: int, seed: int | None) -> list[list[int]]:
        """As `write_answers`. Samples are drawn by vLLM's own generators, one a prompt."""
        drawn = {name: value for name, value in asdict(self._sampling).items() if name != "top_k" or value}
        sampling = {"temperature": 0.0} if seed is None else drawn
        answers = self._engine.ask([tuple(prompt) for prompt in prompts], most, sampling, self.ends, seed)
        return [_up_to_end(answer, self.ends) for answer in answers]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer: the generation config's, or the tokenizer's EOS."""
    return _ends(model.generation_config, tokenizer)


def _ends(config: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    named = getattr(config, "eos_token_id", None)
    named = tokenizer.eos_token_id if named is None else named
    return [] if named is None else named if isinstance(named, list) else [named]


def _up_to_end(ids: list[int], ends: list[int]) -> list[int]:
    stop = next((index for index, token in enumerate(ids) if token in ends), None)
    return ids if stop is None else ids[: stop + 1]
