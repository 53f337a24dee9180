"""How a model writes text: its settings, which are also the options of `prune write`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import Option
from prune.common.sizes import parse_tokens
from prune.common.thinking import MODES, SLOW, parse_modes
from prune.models.precision import HELP as DTYPES

_asking, _drawing, _running = (partial(Option, panel=title) for title in ("Asking", "Drawing", "Running"))
OPENING = 32  # tokens of a document that a model goes on from
CHAT = ("auto", "on", "off")
BACKENDS = ("hf", "vllm")
AT_ONCE = {"hf": 16, "vllm": 256}  # prompts a batch; on a GPU transformers takes what fits


@dataclass(frozen=True)
class WriteSettings(Checked):
    """What a model is asked, how its words are drawn, and where it runs.

    `tokens` counts prompts and answers, with a BOS and an EOS each. Of the draws, what is None is what the model's
    generation_config.json says, and where that says nothing temperature 0.7 from the likeliest 95 %.

    Raises:
        UsageError: a setting is out of range.
    """

    tokens: Annotated[int | str, Option("How much text, prompts included: 60k, 2M.", typed=str)] = "200k"
    field: Annotated[
        str | None,
        _asking(
            "Field of rows that holds the prompt.",
            shown="the first of prompt, question, messages and text that is there",
        ),
    ] = None
    thinking: Annotated[
        tuple[str, ...],
        _asking(
            "Ask as the prompt stands (fast), for a chain of thought (slow), or for some of each (fast,slow).",
            typed=str,
            parse=parse_modes,
        ),
    ] = MODES
    slow_share: Annotated[float, _asking("With --thinking fast,slow: share of prompts that are asked slow.")] = 0.5
    instruction: Annotated[
        str | None,
        _asking("What asks for a chain of thought.", shown="the words of `evaluate`, or the template's own way"),
    ] = None
    chat_template: Annotated[
        Literal["auto", "on", "off"], _asking("on, off, or auto: on where the tokenizer has a chat template.")
    ] = "auto"
    prompt_tokens: Annotated[int, _asking("Tokens of a document (`text`) that the model goes on from.")] = OPENING
    answer_tokens: Annotated[int, _drawing("Most tokens of an answer.")] = 256
    temperature: Annotated[
        float | None, _drawing("0: always the likeliest token.", shown="generation_config.json's, or 0.7")
    ] = None
    top_p: Annotated[
        float | None,
        _drawing(
            "Draw from the likeliest tokens of this total probability.", shown="generation_config.json's, or 0.95"
        ),
    ] = None
    top_k: Annotated[
        int | None,
        _drawing("Draw from this many of the likeliest tokens; 0: from all.", shown="generation_config.json's, or 0"),
    ] = None
    seed: Annotated[int, _drawing("Orders the prompts and draws the words.")] = 0
    finished_only: Annotated[bool, Option("Leave out answers that the model did not end.", flag="--finished-only")] = (
        False
    )
    max_length: Annotated[
        int | None,
        _running(
            "Most tokens of a prompt with its answer; longer prompts are skipped.",
            shown="the model's context; for vllm --answer-tokens and 2048 more",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        _running(
            "Prompts at a time.",
            shown=f"{AT_ONCE['hf']} on a CPU, what fits on a GPU, {AT_ONCE['vllm']} for vllm",
        ),
    ] = None
    backend: Annotated[Literal["hf", "vllm"], _running("hf (transformers) or vllm.")] = "hf"
    backend_args: Annotated[
        str | None, _running("Options of vLLM's engine, with commas between: gpu_memory_utilization=0.6.")
    ] = None
    device: Annotated[str, _running(wording.DEVICE)] = "auto"
    dtype: Annotated[str, _running(DTYPES)] = "auto"
    device_map: Annotated[str | None, _running(wording.DEVICE_MAP)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_tokens(self.tokens)
        object.__setattr__(self, "thinking", parse_modes(self.thinking))
        if not self.thinking:
            raise UsageError("--thinking names no mode; use fast, slow or fast,slow")
        for name, known in (("chat_template", CHAT), ("backend", BACKENDS)):
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"{_flag(name)} {value} is unknown; use {', '.join(known)}")
        if not 0 < self.slow_share < 1:
            raise UsageError(
                f"--slow-share {self.slow_share:g}: use a share between 0 and 1, or --thinking fast or slow"
            )
        if self.instruction is not None and SLOW not in self.thinking:
            raise UsageError("--instruction asks for a chain of thought: it goes with --thinking slow or fast,slow")
        for name in ("prompt_tokens", "answer_tokens", "max_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{_flag(name)} {value}: use 1 or more")
        if self.max_length is not None and self.max_length <= self.answer_tokens:
            raise UsageError(
                f"--max-length {self.max_length} leaves no room for a prompt beside --answer-tokens "
                f"{self.answer_tokens}"
            )
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature:g}: use 0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p:g}: use a share above 0, 1 at most")
        if self.top_k is not None and self.top_k < 0:
            raise UsageError(f"--top-k {self.top_k}: use 0 or more")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: use 0 to {2**32 - 1}")
        if self.backend_args and self.backend != "vllm":
            raise UsageError("--backend-args goes with --backend vllm")
        if self.device_map and self.backend == "vllm":
            raise UsageError("--device-map is for --backend hf; vLLM takes --backend-args tensor_parallel_size=2")

    @property
    def budget(self) -> int:
        """`tokens` as a number."""
        return parse_tokens(self.tokens)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
