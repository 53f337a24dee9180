"""The commands that stages run and the options of each, asked of the commands themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from prune.common.errors import UsageError
from prune.common.programs import PROGRAMS
from prune.common.screen.options import check_settings
from prune.common.screen.terminal import ClickError


@dataclass(frozen=True)
class CommandOption:
    """An option of a command.

    Attributes:
        takes_value: a value stands behind it.
        negation: the flag that switches it off, as `no-compare-logits` does with `compare-logits`; None if none does.
    """

    takes_value: bool
    negation: str | None = None


@cache
def options_of(command: str) -> Mapping[str, CommandOption]:
    """The options of a command such as `prune scan`, by their long names.

    Raises:
        ValueError: no such command.
    """
    program, _, name = command.partition(" ")
    if program not in PROGRAMS or program == "recipe" or len(name.split()) != 1:
        raise ValueError(f"command {command!r} is not of the form `prune scan`, `heal qlora` or `evaluate compare`")
    commands = _commands(program)
    if name not in commands:
        raise ValueError(f"there is no command {command!r}; {program} has {', '.join(sorted(commands))}")
    options: dict[str, CommandOption] = {}
    for parameter in commands[name].params:
        negation = next((flag[2:] for flag in parameter.secondary_opts if flag.startswith("--")), None)
        option = CommandOption(takes_value=not getattr(parameter, "is_flag", False), negation=negation)
        options |= {flag[2:]: option for flag in parameter.opts if flag.startswith("--") and flag != "--help"}
    return options


def check_line(command: str, words: Sequence[str]) -> None:
    """Refuse what a command would refuse by its line alone; nothing is run, and no model or text is read.

    Args:
        command: such as `prune scan`, and `words` what stands behind it.

    Raises:
        UsageError: an option that is missing, of a wrong type or out of range, or options that do not go together.
    """
    program, _, name = command.partition(" ")
    made = _commands(program)[name]
    try:
        context = made.make_context(command, list(words))
    except ClickError as error:
        raise UsageError(error.format_message().removesuffix(".")) from None
    check_settings(made.callback, context.params)


@cache
def _commands(program: str) -> Mapping[str, Any]:
    """The commands of a program by name; to make them of their functions takes seconds."""
    import typer

    group: Any = typer.main.get_command(import_module(f"{PROGRAMS[program]}.cli").app)
    commands: Mapping[str, Any] = group.commands
    return commands
