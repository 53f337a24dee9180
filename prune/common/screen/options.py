"""Options of the command line, each written once: on the field of the settings that it sets.

A field says its help text and, where they differ, its flag and what a user types:

    @dataclass(frozen=True)
    class ScanSettings:
        samples: Annotated[int, Option("Samples to draw, each a window of one document.")] = 256
        max_memory: Annotated[int | None, Option("A larger model is streamed.", typed=str, parse=parse_size)] = None

`takes(settings=settings_options(ScanSettings))` gives a command all of these options and hands it the settings whole.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from prune.common.errors import UsageError
from prune.common.sizes import parse_size

_READ: dict[Any, tuple[Callable[[str], Any], str]] = {  # a field's type -> what reads it, and what it is in words
    int: (int, "whole number"),
    float: (float, "number"),
    Path: (Path, "path"),
}
_CHECKING = ContextVar("checking", default=False)  # a command makes its settings, and does not run


@dataclass(frozen=True)
class Option:
    """What the command line says of a field of settings.

    Attributes:
        help: one short sentence. The default is shown behind it.
        flag: how the option is written, such as `--no-cache`; the field's name with hyphens if None. A field of type
            bool has also `--no-<name>`, unless a flag is given.
        panel: the box of `--help` that it stands in.
        typed: the type that a user types, if it is not the field's.
        parse: makes the field's value of what was typed. It is not called for None.
        shown: words in the place of the default, or False to show none.
        least: the least number that the field may hold, in Python too.
    """

    help: str
    flag: str | None = None
    panel: str | None = None
    typed: Any = None
    parse: Callable[[Any], Any] | None = None
    shown: str | bool = True
    least: int | None = None


MAX_MEMORY = Option(
    "A model larger than this (4GiB, 800MB) is run layer by layer from its files.",
    typed=str | None,
    parse=parse_size,
    shown="what the machine has",
    least=1,
)


def option_flag(name: str, option: Option) -> str:
    """How the option of a field of that name is written."""
    return option.flag or f"--{name.replace('_', '-')}"


def option_names(make: type) -> tuple[str, ...]:
    """The fields of a settings dataclass that declare an option, in order."""
    return tuple(_declared(make))


def _declared(make: type) -> dict[str, tuple[Any, Option]]:
    """Of each field that declares an option: its type, and the option."""
    hints = get_type_hints(make, include_extras=True)
    return {
        field.name: (get_args(hints[field.name])[0], option)
        for field in dataclasses.fields(make)
        if get_origin(hints[field.name]) is Annotated
        for option in get_args(hints[field.name])[1:]
        if isinstance(option, Option)
    }


def named_paths(settings: Any) -> tuple[Path, ...]:
    """What the options of a settings dataclass name that is a path, or several: those that are given, in order."""
    paths: list[Path] = []
    for name, (kind, _) in _declared(type(settings)).items():
        if Path in (kind, *get_args(kind)) and (value := getattr(settings, name)) is not None:
            paths += map(Path, value if isinstance(value, tuple | list) else [value])
    return tuple(paths)


def typed(make: type, given: Mapping[str, Any], *, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The fields of a settings dataclass that options name, read as the command line reads them.

    Args:
        given: the long name of an option, without its dashes -> what a user types, or that value as YAML has it. Other
            options, and those whose value is None, are passed over.
        only: fields to take; all if None.

    Raises:
        UsageError: a value that is not of the option's type.
    """
    values: dict[str, Any] = {}
    declared = _declared(make)
    for name in declared if only is None else only:
        kind, option = declared[name]
        flag = option_flag(name, option)
        if (value := given.get(flag.removeprefix("--"))) is None:
            continue
        kinds = {one for one in get_args(kind) or (kind,) if one is not type(None)}
        if kinds == {bool}:
            values[name] = bool(value)
            continue
        text = str(value) if not isinstance(value, bool) else "on" if value else "off"  # as YAML reads these words
        read, words = next((_READ[one] for one in kinds if one in _READ), (str, ""))
        try:
            values[name] = (option.parse or read)(text)
        except ValueError:
            raise UsageError(f"{flag} {value} is no {words}") from None
    return values


def settings_options(
    make: type, *, only: Iterable[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> Options:
    """The options that the fields of a settings dataclass declare.

    Args:
        make: the dataclass. Fields without an `Option` are left out.
        only: fields to take; all if None. The command is then handed a dict of these, not the dataclass.
        defaults: defaults as typed, where they are not those of the fields. A field whose `parse` turns text into
            something else needs one here, unless its default is None.

    Raises:
        KeyError: a name in `only` that is no field with an option.
    """
    import typer

    declared = _declared(make)
    names = list(declared) if only is None else list(only)
    kinds, parsers = {}, {}
    for name in names:
        kind, option = declared[name]
        flags = [option.flag] if option.flag else []
        info = typer.Option(*flags, help=option.help, rich_help_panel=option.panel, show_default=option.shown)
        kinds[name] = Annotated[option.typed or kind, info]
        if option.parse is not None:
            parsers[name] = option.parse

    def made(**given: Any) -> Any:
        values = {
            name: parsers[name](value) if name in parsers and value is not None else value
            for name, value in given.items()
        }
        return make(**values) if only is None else values

    fields = inspect.signature(make).parameters
    return Options(made, kinds, {name: (defaults or {}).get(name, fields[name].default) for name in names})


@dataclass(frozen=True)
class Options:
    """Options of the command line that together make one value, such as the settings of a run.

    Attributes:
        make: what makes the value of them, given each by its name: a dataclass or a function.
        kinds: name of each -> its type and option, as `Annotated[int, typer.Option(help="...")]`.
        defaults: what each is if not given; `inspect.Parameter.empty` where it has to be.
    """

    make: Callable[..., Any]
    kinds: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def parameters(self) -> list[inspect.Parameter]:
        """One for each option, as Typer reads them."""
        return [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=self.defaults[name], annotation=kind)
            for name, kind in self.kinds.items()
        ]


def takes(**groups: Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options in the place of parameters: `@takes(settings=...)` in that of its parameter `settings`.

    Typer reads options from a function's signature, one parameter each; this writes them there, and hands the command
    what they make. How the command annotates such a parameter is for type checkers, and may name what is not imported.

    Raises:
        KeyError: the command has no such parameter.
        ValueError: two options of one name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name in groups:
            del command.__annotations__[name]
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            by_name = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += groups[name].parameters() if name in groups else [by_name]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            made = {
                name: group.make(**{option: given.pop(option) for option in group.kinds})
                for name, group in groups.items()
            }
            if not _CHECKING.get():
                command(**given, **made)

        called.takes_groups = True  # type: ignore[attr-defined]
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def check_settings(command: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Make the settings that a command takes of its options, as far as it takes them by `takes`; nothing is run.

    Args:
        command: as Typer calls it.
        given: its parameters, as Typer gives them.

    Raises:
        UsageError: an option out of range, or options that do not go together.
    """
    if getattr(command, "takes_groups", False):
        token = _CHECKING.set(True)
        try:
            command(**given)
        finally:
            _CHECKING.reset(token)
