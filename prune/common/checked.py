"""Settings and arguments that Python code gives: a value of a wrong type is refused in one line, as a typed one is.

`Checked` is the base of settings, `checks_arguments` is for functions. Both read the annotations. A class that is
named under TYPE_CHECKING alone is known by its name, so that nothing has to be imported to check it.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from prune.common.errors import UsageError
from prune.common.screen.options import Option, named_paths, option_flag

_Function = TypeVar("_Function", bound=Callable[..., Any])
_SPELLED = 60  # characters of a wrong value that are shown
_WORDS = {
    bool: "True or False", int: "a whole number", float: "a finite number",
    str: "text", Path: "a path", NoneType: "None",
}  # fmt: skip


class _UnfitError(Exception):
    """The value is not of the kind."""


class Checked:
    """Base of a dataclass of settings: each field is brought to its type when the settings are made.

    A list may stand for a tuple and text for a path, and text that is no value of the type is read as the command line
    reads it. A subclass with a `__post_init__` of its own calls this one first.
    """

    def __post_init__(self) -> None:
        make: type = type(self)
        for name in _hints(make):
            object.__setattr__(self, name, field_value(make, name, getattr(self, name)))

    @property
    def files_read(self) -> tuple[Path, ...]:
        """Files and folders of this machine that the options name. A class whose options name text adds its files."""
        return named_paths(self)


def field_value(make: type, name: str, value: Any) -> Any:
    """The value as a field of a settings dataclass holds it.

    Raises:
        UsageError: it is not of the field's type, or below the least; the message names its option.
    """
    kind, option = _hints(make)[name]
    written = f"{option_flag(name, option)} {_spelled(value)}" if option else f"{name}={_spelled(value)}"
    try:
        fitted = _fitted(value, kind)
    except _UnfitError:
        if not (isinstance(value, str) and option and option.parse):
            raise UsageError(f"{written}: use {_words(kind)}") from None
        fitted = option.parse(value)
    if option and option.least is not None and isinstance(fitted, int) and fitted < option.least:
        raise UsageError(f"{written}: use {option.least} or more")
    return fitted


def checks_arguments(function: _Function) -> _Function:
    """Have a function refuse arguments that are not of the types it declares, before it does anything.

    Raises:
        UsageError: when called with such an argument; the message names it.
    """
    signature = inspect.signature(function)

    @functools.cache
    def kinds() -> dict[str, Any]:
        named = _Names(function.__globals__)
        return {
            name: eval(parameter.annotation, {}, named)
            for name, parameter in signature.parameters.items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        for name, kind in kinds().items():
            if name in given:
                try:
                    _fitted(given[name], kind)
                except _UnfitError:
                    raise UsageError(f"{name}={_spelled(given[name])}: use {_words(kind)}") from None
        return function(*args, **kwargs)

    return called  # type: ignore[return-value]


class _Names(dict[str, Any]):
    """A module's names; one that is imported under TYPE_CHECKING alone is a class of that name."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, None) or type(name, (), {})


@functools.cache
def _hints(make: type) -> dict[str, tuple[Any, Option | None]]:
    """Of each field: its type, and the option it declares, if it does."""
    found: dict[str, tuple[Any, Option | None]] = {}
    for name, hint in get_type_hints(make, include_extras=True).items():
        kind, *more = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        found[name] = kind, next((one for one in more if isinstance(one, Option)), None)
    return found


def _fitted(value: Any, kind: Any) -> Any:
    """The value, brought to the kind.

    Raises:
        _UnfitError: it is not of that kind.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        for one in inner:
            try:
                return _fitted(value, one)
            except _UnfitError:
                continue
        raise _UnfitError
    if origin is Literal:  # which of the words it may be is for the settings to say
        kinds = {type(word) for word in inner}
        return _of(value, type(value) in kinds)
    if origin is not None:
        return _fitted_all(value, origin, inner)
    if kind is bool:
        return _of(value, isinstance(value, bool))
    if kind is int:
        return int(_of(value, isinstance(value, Integral) and not isinstance(value, bool)))
    if kind is float:
        _of(value, isinstance(value, Real) and not isinstance(value, bool))
        _of(value, isinstance(value, Integral) or math.isfinite(value))
        return value if isinstance(value, int | float) else float(value)
    if kind is Path:
        return Path(_of(value, isinstance(value, str | os.PathLike)))
    if isinstance(kind, type):
        return _of(value, isinstance(value, kind) or kind.__name__ in {base.__name__ for base in type(value).__mro__})
    return value


def _fitted_all(value: Any, origin: Any, inner: tuple[Any, ...]) -> Any:
    """As `_fitted`, of a list or a table."""
    if issubclass(origin, Mapping):
        _of(value, isinstance(value, Mapping))
        for key, entry in value.items():
            _fitted(key, inner[0])
            _fitted(entry, inner[1])
        return value
    _of(value, isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping))
    if origin is not tuple:  # what it is stays; an iterator can be read once alone
        for entry in value if isinstance(value, list | tuple | set) else ():
            _fitted(entry, inner[0])
        return value
    entries = tuple(value)
    kinds = inner[:1] * len(entries) if inner[-1] is Ellipsis else inner
    _of(value, len(kinds) == len(entries))
    return tuple(_fitted(entry, one) for entry, one in zip(entries, kinds, strict=True))


def _of(value: Any, fits: bool) -> Any:
    if not fits:
        raise _UnfitError
    return value


def _spelled(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _SPELLED else text[: _SPELLED - 3] + "..."


def _words(kind: Any) -> str:
    """What a value of the kind is, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(one) for one in inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is None:
        return _WORDS.get(kind) or str(getattr(kind, "__name__", kind))
    if issubclass(origin, Mapping):
        return f"a table of {_words(inner[0])} and {_words(inner[1])}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)}: " + ", ".join(map(_words, inner))
    return f"a list ({_words(inner[0])} each)"
