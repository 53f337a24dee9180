"""The options that `evaluate run` and `evaluate compare` share, declared once: the fields of `Settings`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.settings import Settings, default_cache

_Path = Path | None
_Text = str | None
_Count = int | None

# Field of Settings -> its type and option on the command line; the defaults are those of the fields.
_OPTIONS: dict[str, Any] = {
    "data": Annotated[_Path, typer.Option(help="Folder of prepared questions: one <domain>.jsonl each.")],
    "domains": Annotated[_Text, typer.Option(help="Domains, as medical,math.")],
    "tasks": Annotated[_Text, typer.Option(help="Tasks or groups of lm-eval to run as well, as arc_easy,mathqa.")],
    "include_path": Annotated[_Path, typer.Option(help="Folder of lm-eval task YAML files for --tasks.")],
    "limit": Annotated[_Count, typer.Option(help="Questions per domain and protocol (or task), at most; all if none.")],
    "seed": Annotated[int, typer.Option(help="Which questions and which prose are drawn.")],
    "sets": Annotated[_Text, typer.Option(help="Only questions of these sets, as mmlu,medmcqa,asdiv.")],
    "thinking": Annotated[
        _Text, typer.Option(help="Ask in these modes as well: fast (at once), slow (after a chain of thought) or both.")
    ],
    "slow_tokens": Annotated[int, typer.Option(help="New tokens of a chain of thought, at most.")],
    "few_shot": Annotated[_Count, typer.Option(help="Worked examples before each question, of the same set.")],
    "chat_template": Annotated[
        str, typer.Option(help="on, off, or auto: on where the (full) model's tokenizer has a chat template.")
    ],
    "texts": Annotated[
        list[str] | None,
        typer.Option(
            "--text", help="Held-out prose to measure the loss on too: SOURCE, or NAME=SOURCE for several; repeatable."
        ),
    ],
    "field": Annotated[str, typer.Option(help="Field of that prose's rows that holds the text.")],
    "backend": Annotated[str, typer.Option(help="hf (transformers) or vllm, of lm-eval.")],
    "batch_size": Annotated[int, typer.Option(help="Requests at a time; halved where memory runs out.")],
    "max_length": Annotated[_Count, typer.Option(help="Context in tokens; the model's own, 4096 at most, if none.")],
    "device": Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")],
    "dtype": Annotated[str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16.")],
    "cache": Annotated[
        _Path, typer.Option(help="Where answers are kept: none is asked twice, and an interrupted run goes on.")
    ],
}
_NO_CACHE = Annotated[bool, typer.Option("--no-cache", help="Ask everything anew, and keep no answer.")]
_AS_TEXT = ("domains", "tasks", "thinking", "texts")  # empty means that the option is not given


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Settings` in the place of its parameter `settings`.

    Typer reads options from a function's signature, one parameter each; this writes them there from one table.
    """
    signature = inspect.signature(command, eval_str=True)
    defaults = {one.name: one.default for one in fields(Settings)} | dict.fromkeys(_AS_TEXT)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind)
        for name, kind in _OPTIONS.items()
    ]
    options.append(inspect.Parameter("no_cache", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_NO_CACHE))
    own = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in signature.parameters.values()
        if one.name != "settings"
    ]
    before = [one for one in own if one.default is inspect.Parameter.empty]
    after = [one for one in own if one.default is not inspect.Parameter.empty]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        asked = {name: given.pop(name) for name in _OPTIONS}
        asked["cache"] = None if given.pop("no_cache") else asked["cache"] or default_cache()
        command(**given, settings=Settings.of(**asked))

    parameters = [*before, *options, *after]
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called
