"""The options that `evaluate run`, `compare` and `sweep` share, declared once: the fields of `Settings`."""

from __future__ import annotations

from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.settings import Settings, default_cache
from prune.common.options import Options, defaults_of, panel, takes
from prune.models.precision import HELP as DTYPES

_Path = Path | None
_Text = str | None
_Count = int | None

# Field of Settings -> its type and option on the command line; the defaults are those of the fields. And --no-cache.
_QUESTIONS = panel(
    "Questions",
    {
        "data": Annotated[_Path, typer.Option(help="Folder of prepared questions: one <domain>.jsonl each.")],
        "domains": Annotated[_Text, typer.Option(help="Domains, as medical,math.")],
        "tasks": Annotated[_Text, typer.Option(help="Tasks or groups of lm-eval to run as well, as arc_easy,mathqa.")],
        "include_path": Annotated[_Path, typer.Option(help="Folder of lm-eval task YAML files for --tasks.")],
        "limit": Annotated[
            _Count, typer.Option(help="Questions per domain and protocol (or task), at most; all if none.")
        ],
        "seed": Annotated[int, typer.Option(help="Which questions and which prose are drawn.")],
        "sets": Annotated[_Text, typer.Option(help="Only questions of these sets, as mmlu,medmcqa,asdiv.")],
        "thinking": Annotated[
            _Text,
            typer.Option(help="Ask in these modes as well: fast (at once), slow (after a chain of thought) or both."),
        ],
        "slow_tokens": Annotated[int, typer.Option(help="New tokens of a chain of thought, at most.")],
        "few_shot": Annotated[
            _Count, typer.Option(help="Worked examples before each question, of its domain and protocol.")
        ],
        "chat_template": Annotated[
            str, typer.Option(help="on, off, or auto: on where the (full) model's tokenizer has a chat template.")
        ],
        "texts": Annotated[
            list[str] | None,
            typer.Option(
                "--text",
                help="Held-out prose to measure the loss on too: SOURCE, or NAME=SOURCE for several; repeatable.",
            ),
        ],
        "field": Annotated[str, typer.Option(help="Field of that prose's rows that holds the text.")],
    },
)
_MODEL = panel(
    "Model and memory",
    {
        "backend": Annotated[str, typer.Option(help="hf (transformers) or vllm, of lm-eval.")],
        "backend_args": Annotated[
            _Text, typer.Option(help="Options of vLLM's engine, as gpu_memory_utilization=0.6,tensor_parallel_size=2.")
        ],
        "batch_size": Annotated[int, typer.Option(help="Requests at a time; halved where memory runs out.")],
        "max_length": Annotated[
            _Count, typer.Option(help="Context in tokens; never more than the model's own, or 4096.")
        ],
        "device": Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")],
        "dtype": Annotated[str, typer.Option(help=DTYPES)],
    },
)
_KEPT = panel(
    "Kept answers",
    {
        "cache": Annotated[
            _Path, typer.Option(help="Where answers are kept: none is asked twice, and an interrupted run goes on.")
        ],
        "no_cache": Annotated[bool, typer.Option("--no-cache", help="Ask everything anew, and keep no answer.")],
    },
)
_OPTIONS = {**_QUESTIONS, **_MODEL, **_KEPT}
_AS_TEXT = ("domains", "tasks", "thinking", "texts", "backend_args")  # empty means that the option is not given


def _settings(cache: Path | None, no_cache: bool, **given: Any) -> Settings:
    return Settings.of(cache=None if no_cache else cache or default_cache(), **given)


_DEFAULTS = {**defaults_of(Settings), **dict.fromkeys(_AS_TEXT), "no_cache": False}
takes_settings = takes(settings=Options(_settings, _OPTIONS, _DEFAULTS))

_SWEPT = ("data", "domains", "limit", "seed", "sets", "few_shot", "chat_template", "texts", "field", "max_length")
_REQUIRED = dict.fromkeys(("data", "domains"), Parameter.empty)  # a sweep has no --tasks in their place
takes_questions = takes(
    asked=Options(dict, {name: _OPTIONS[name] for name in (*_SWEPT, "device", "dtype")}, {**_DEFAULTS, **_REQUIRED})
)
