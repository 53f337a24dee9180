"""The options of the commands that ask: those of their settings, and what stands for one not given."""

from __future__ import annotations

from dataclasses import fields
from inspect import Parameter
from typing import Annotated, Any

import typer

from eval.depth.settings import DepthSettings
from eval.settings import Questions, Settings, default_cache
from eval.sweeps.settings import SweepSettings
from prune.common.screen.options import Options, settings_options

_NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Ask everything anew, and keep no answer.", rich_help_panel="Kept answers")
]

# its prompts are its own and have no examples, it reads no prose, and states of two layers are compared on one device
_NOT_OF_DEPTH = ("protocols", "few_shot", "texts", "field", "device_map")


def asked_options(make: type[Questions]) -> Options:
    """The options of a settings class; an option that is not given leaves the field's own default."""
    defaults: dict[str, Any] = {field.name: None for field in fields(make) if isinstance(field.default, tuple)}
    if make in (SweepSettings, DepthSettings):
        defaults |= {"data": Parameter.empty, "domains": Parameter.empty}
    options = settings_options(make, defaults=defaults)
    left_out = _NOT_OF_DEPTH if make is DepthSettings else ()
    kinds = {name: kind for name, kind in options.kinds.items() if name not in left_out}

    def made(**given: Any) -> Any:
        return options.make(**{name: value for name, value in given.items() if value is not None})

    return Options(made, kinds, options.defaults)


def caching_options(make: type[Settings]) -> Options:
    """The same, with --no-cache: a command keeps its answers unless it is told not to."""
    options = asked_options(make)

    def made(cache: Any, no_cache: bool, **given: Any) -> Any:
        return options.make(cache=None if no_cache else cache or default_cache(), **given)

    return Options(made, {**options.kinds, "no_cache": _NoCache}, {**options.defaults, "no_cache": False})
