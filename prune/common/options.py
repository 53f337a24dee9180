"""Options that commands share, each written once: a command's signature, put together from tables."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Annotated, Any, get_args


@dataclass(frozen=True)
class Options:
    """Options of the command line that together make one value, such as the settings of a run.

    Attributes:
        make: what makes the value of them, given each by its name: a dataclass or a function.
        kinds: name of each -> its type and option, as `Annotated[int, typer.Option(help="...")]`.
        defaults: what each is if not given; what `make` takes for it if None.
    """

    make: Callable[..., Any]
    kinds: Mapping[str, Any]
    defaults: Mapping[str, Any] | None = None

    def parameters(self) -> list[inspect.Parameter]:
        """One for each option, as Typer reads them.

        Raises:
            KeyError: an option that nothing says the default of.
        """
        found = defaults_of(self.make) if self.defaults is None else self.defaults
        return [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=found[name], annotation=kind)
            for name, kind in self.kinds.items()
        ]


def defaults_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The defaults of a dataclass's fields or of a function's parameters; `inspect.Parameter.empty` for no default."""
    return {name: one.default for name, one in inspect.signature(make).parameters.items()}


def panel(title: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The same options, which `--help` shows in a box of their own."""
    found = {}
    for name, kind in kinds.items():
        plain, option = get_args(kind)
        option = copy(option)
        option.rich_help_panel = title
        found[name] = Annotated[plain, option]
    return found


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
        for name, one in signature.parameters.items():
            own = one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += groups[name].parameters() if name in groups else [own]

        @functools.wraps(command)
        def called(**given: Any) -> None:
            made = {name: group.make(**{one: given.pop(one) for one in group.kinds}) for name, group in groups.items()}
            command(**given, **made)

        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return decorate
