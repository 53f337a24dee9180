"""What a recipe is: settings, and stages that are commands of the other folders. Validated before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prune.common.errors import RegrowthError, UsageError
from recipes.commands import check_line, options_of

Value = str | int | float | bool | None | list[str | int | float]
SHIPPED = Path(__file__).parent
# Options that name what a command writes; everything else it names, it reads.
_OUTPUTS = {"evaluate prepare": ("data",), "heal rank": ("out", "plot", "select-out")}
ANY = "*"  # in a choice: the row of every value that has none of its own
_USUAL_OUTPUTS = ("out", "plot")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_SPREAD = re.compile(r"\{([a-z][a-z0-9_]*)\.\.\.\}")
_LOOP = re.compile(r"([a-z][a-z0-9_]*) in ([a-z][a-z0-9_]*)")
_MISSING = re.compile(r"<[a-z][a-z0-9_]*>")  # a setting without a value in what is shown
_PART_OF_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class RecipeError(RegrowthError):
    """A recipe file is missing or says something that cannot be run."""


class Stage(BaseModel):
    """One command: `prune scan`, its arguments, its options (long names without dashes), and what it leaves.

    `each: size in sizes` makes one stage of it for each value of the setting `sizes`, which stands in it as `{size}`;
    stages of one loop that follow one another are gone through together, value by value. An argument, or an option that
    may be given more than once, with `{sizes...}` in it is given once for each value, in a loop or not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    command: str
    arguments: list[str] = []
    options: dict[str, Value] = {}
    each: str | None = None

    @field_validator("each")
    @classmethod
    def _loop(cls, each: str | None) -> str | None:
        if each is not None and _LOOP.fullmatch(each) is None:
            raise ValueError(f"each: {each!r} is not of the form `size in sizes`")
        return each

    @field_validator("command")
    @classmethod
    def _known_command(cls, command: str) -> str:
        options_of(command)
        return command

    @model_validator(mode="after")
    def _known_options(self) -> Stage:
        known = options_of(self.command)
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise ValueError(f"{self.command} has no option --{unknown[0]}; it has {', '.join(sorted(known))}")
        if self.writes[0] not in self.options:
            raise ValueError(f"{self.command} needs `{self.writes[0]}`, or its result cannot be kept")
        for name in self.writes:
            if self.loop and name in self.options and f"{{{self.loop[0]}}}" not in str(self.options[name]):
                raise ValueError(f"each: `{name}` does not name {{{self.loop[0]}}}, so the results would be one")
        return self

    @property
    def loop(self) -> tuple[str, str] | None:
        """The name that a value has in this stage, and the setting that has the values; None for a single stage."""
        if self.each is None:
            return None
        value, _, setting = self.each.partition(" in ")
        return value, setting

    def filled(self, settings: dict[str, Value]) -> Stage:
        """The stage with every `{name}` filled in. In a loop, the settings name the loop's value too.

        Raises:
            UsageError: its command would refuse an option whatever the model and the text; `<name>` is passed over.
        """
        options: dict[str, Value] = {}
        for name, value in self.options.items():
            given = _spread(value if isinstance(value, list) else [value], settings)
            filled = given if isinstance(value, list) or len(given) != 1 else given[0]
            if filled != []:  # an option that is not given
                options[name] = filled
        name = self.name if self.loop is None else f"{self.name}-{settings[self.loop[0]]}"
        arguments = [str(argument) for argument in _spread(self.arguments, settings)]
        filled = self.model_copy(update={"name": name, "arguments": arguments, "options": options, "each": None})
        self._check(filled)
        return filled

    def _check(self, filled: Stage) -> None:
        try:
            check_line(self.command, filled.words()[1:])
        except UsageError as error:
            named = [name for name in filled.options if re.search(rf"--{name}(?![a-z-])", str(error))]
            blamed = {name: filled.options[name] for name in named} or filled.options
            if any(_MISSING.search(str(value)) for value in blamed.values()):
                return
            value, setting = self.loop or ("", "")
            keys = [key for name in named for key in _PLACEHOLDER.findall(str(self.options[name]))]
            where = f" (setting {setting if keys[0] == value else keys[0]})" if keys else ""
            raise UsageError(f"stage {filled.name}{where}: {error}") from None

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of the options that say where results go, the main one first."""
        return _OUTPUTS.get(self.command, _USUAL_OUTPUTS)

    def words(self) -> list[str]:
        """The command line after the program's name: `["scan", MODEL, "--out", ...]`."""
        line = [self.command.split()[1], *self.arguments]
        for name, value in self.options.items():
            if isinstance(value, bool):
                option = options_of(self.command)[name]
                if option.takes_value:  # YAML reads `checkpointing: off` as false
                    line += [f"--{name}", "on" if value else "off"]
                    continue
                flag = name if value else option.negation
                line += [f"--{flag}"] if flag else []
                continue
            if value is None:
                continue
            for entry in value if isinstance(value, list) else [value]:
                line += [f"--{name}", str(entry)]
        return line


class Recipe(BaseModel):
    """Settings that a user may change with `--set`, and the stages that use them as `{name}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    about: str
    settings: dict[str, Value]
    stages: list[Stage] = Field(min_length=1)
    choices: dict[str, dict[str, dict[str, Value]]] = {}  # setting -> its value, or * -> settings that it changes
    show: str | None = None  # a comparison.json or a Markdown file to print at the end
    files: dict[str, str] = {}  # what each result is -> where it stands
    tidy: list[str] = []  # stages whose outputs --tidy may delete although `files` names them
    one_of: list[list[str]] = []  # groups of settings of which a run is given exactly one

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("two stages have one name")
        for name in self.tidy:
            if name not in names:
                raise ValueError(f"tidy: {name} is no stage")
        if "out" not in self.settings:
            raise ValueError("settings need `out`: the folder that holds everything the recipe makes")
        for choice, table in self.choices.items():
            for key in [choice, *(key for row in table.values() for key in row)]:
                if key not in self.settings:
                    raise ValueError(f"choices: {key} is no setting")
        for key in [key for group in self.one_of for key in group]:
            if key not in self.settings:
                raise ValueError(f"one_of: {key} is no setting")
        for stage in self.stages:
            if stage.loop and stage.loop[0] in self.settings:
                raise ValueError(f"each: {stage.loop[0]} is a setting already; call the values otherwise")
        for used in self._placeholders():
            if used not in self.settings:
                raise ValueError(f"{{{used}}} is used but is no setting")
        return self

    def _placeholders(self) -> Iterator[str]:
        """The settings that are used, the values of loops apart."""
        for stage in self.stages:
            value, setting = stage.loop or (None, None)
            if setting is not None:
                yield setting
            for text in [*stage.arguments, *stage.options.values()]:
                for part in text if isinstance(text, list) else [text]:
                    yield from _SPREAD.findall(str(part))
                    yield from (name for name in _PLACEHOLDER.findall(str(part)) if name != value)
        for text in [self.show or "", *self.files.values()]:
            yield from _PLACEHOLDER.findall(text)

    def resolve(self, changes: dict[str, Value] | None = None, *, partial: bool = False) -> Recipe:
        """The recipe with `changes` made to its settings and every `{name}` filled in.

        A choice changes the settings of its row, but for those that `changes` names. Of settings that exclude each
        other the one that `changes` names counts.

        Args:
            changes: setting -> value.
            partial: leave a setting that still needs a value as `<name>`, to be shown and not run.

        Raises:
            UsageError: a change, or a `{name}` in a setting, names no setting; a choice has no such value; a setting
                that is used has no value; of settings that exclude each other not exactly one is given; a value
                cannot name a stage of a loop; or a stage's command would refuse an option.
        """
        settings = dict(self.settings)
        for key, value in (changes or {}).items():
            if key not in settings:
                raise UsageError(f"--set {key}: no such setting; {self.name} has {', '.join(settings)}")
            settings[key] = value
        for choice, table in self.choices.items():
            chosen = settings[choice]
            if chosen in (None, [], False) and _word(chosen) not in table:
                continue
            row = table.get(_word(chosen), table.get(ANY))
            if row is None:
                raise UsageError(f"--set {choice}={chosen}: there is no such row; {self.name} has {', '.join(table)}")
            settings |= {key: value for key, value in row.items() if key not in (changes or {})}
        for group in self.one_of:  # the one that is named takes the place of what a default or a choice gave
            if any((changes or {}).get(key) not in (None, []) for key in group):
                settings |= {key: [] for key in group if key not in (changes or {})}
        for key, value in settings.items():  # a setting may use those above it
            settings[key] = _fill(value, settings)
        used = set(self._placeholders())
        empty = [key for key, value in (changes or {}).items() if value == [] and self.settings[key] is None]
        missing = [key for key, value in settings.items() if (value is None or key in empty) and key in used]
        if partial:
            settings |= {key: f"<{key}>" for key in missing}
        elif missing:
            raise UsageError(f"{self.name} needs a value for {missing[0]!r}: add --set {missing[0]}=...")
        else:
            self._check_one_of(settings)
        tidy = [stage for stage in self.stages if stage.name in self.tidy]
        return self.model_copy(
            update={
                "settings": settings,
                "stages": list(_unrolled(self.stages, settings)),
                "show": _fill(self.show, settings),
                "files": {what: str(_fill(where, settings)) for what, where in self.files.items()},
                "tidy": [stage.name for stage in _unrolled(tidy, settings)],
            }
        )

    def _check_one_of(self, settings: dict[str, Value]) -> None:
        for group in self.one_of:
            given = [key for key in group if settings[key] not in (None, [])]
            words = " or ".join(f"--set {key}=..." for key in group)
            if not given:
                raise UsageError(f"{self.name} needs one of {' and '.join(group)}: add {words}")
            if len(given) > 1:
                raise UsageError(f"{self.name} takes one of {' and '.join(group)}, not both: give {words}")


def _unrolled(stages: Sequence[Stage], settings: dict[str, Value]) -> Iterator[Stage]:
    """The stages filled in; those of one loop that follow one another come together, value by value."""
    for loop, some in groupby(stages, key=lambda stage: stage.loop):
        group = list(some)
        for value in [None] if loop is None else _values(loop[1], settings):
            known = settings if loop is None else {**settings, loop[0]: value}
            yield from (stage.filled(known) for stage in group)


def _values(setting: str, settings: dict[str, Value]) -> list[str | int | float]:
    """The values of a setting that is gone through: a list, or `2,4,6`, or one value. None twice.

    Raises:
        UsageError: there are none, one stands there twice, or one cannot be part of a stage's name.
    """
    given = settings[setting]
    entries = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    values = [int(str(entry)) if str(entry).strip().isdecimal() else str(entry).strip() for entry in entries]
    if not values:
        raise UsageError(f"--set {setting}: name one value at least, as {setting}=2,4")
    for number, value in enumerate(values):
        if value in values[:number]:
            raise UsageError(f"--set {setting}: {value} stands there twice")
        if not str(value).startswith("<") and _PART_OF_NAME.fullmatch(str(value)) is None:
            raise UsageError(f"--set {setting}: {str(value)!r} cannot name a stage; use numbers or words such as a-b")
    return list(values)


def _spread(texts: Sequence[Any], settings: dict[str, Value]) -> list[Any]:
    """The texts filled in; one with `{sizes...}` once for each value of that setting."""
    made = []
    for text in texts:
        match = _SPREAD.search(text) if isinstance(text, str) else None
        if match is None:
            made.append(_fill(text, settings))
            continue
        for value in _values(match[1], settings):
            made.append(_fill(_SPREAD.sub(str(value), text), settings))
    return made


def _word(value: Value) -> str:
    """A value as the rows of a choice are called: `true` for what YAML reads as such."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fill(value: Any, settings: dict[str, Value]) -> Any:
    if isinstance(value, list):
        return [_fill(entry, settings) for entry in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return _setting(whole[1], settings)  # keeps the setting's type

    def word(match: re.Match[str]) -> str:
        part = _setting(match[1], settings)
        if part == []:
            raise UsageError(f"--set {match[1]}: {value} has it in it, so it needs a value")
        return str(part)

    return _PLACEHOLDER.sub(word, value)


def _setting(name: str, settings: dict[str, Value]) -> Value:
    if name not in settings:
        raise UsageError(f"{{{name}}} stands in a setting but is none itself; there are {', '.join(settings)}")
    return settings[name]


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """Read a shipped recipe by name, or a YAML file by path.

    Raises:
        RecipeError: no such recipe, not YAML, or invalid; the line names the field.
    """
    path = _path_of(name_or_file)
    document = _read(path)
    if isinstance(document, dict) and "based_on" in document:
        document = _based(document, path)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "recipe"
        raise RecipeError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def _path_of(name_or_file: str) -> Path:
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_file not in shipped_recipes():
            known = ", ".join(shipped_recipes())
            raise RecipeError(f"no recipe {name_or_file!r}; use {known}, or give a .yaml file")
        path = SHIPPED / f"{name_or_file}.yaml"
    return path


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None


def _based(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A recipe that says only how it differs from a shipped one; its settings and choices come on top of that one's."""
    base_name = document.pop("based_on")
    if base_name not in shipped_recipes():
        raise RecipeError(f"{path}: based_on: there is no recipe {base_name!r}; use {', '.join(shipped_recipes())}")
    base = _read(_path_of(base_name))
    if "based_on" in base:
        raise RecipeError(f"{path}: based_on: {base_name} is based on another recipe itself; use {base['based_on']}")
    merged = {}
    for key in ("settings", "choices", "files"):
        changed = document.get(key) or {}
        if not isinstance(changed, dict):
            raise RecipeError(f"{path}: {key}: write it as lines of `name: value`")
        merged[key] = {**base.get(key, {}), **changed}
    return {**base, **document, **merged}


def parse_changes(pairs: list[str]) -> dict[str, Value]:
    """`["n=8", "text=a.txt"]` -> `{"n": 8, "text": "a.txt"}`; values are read as YAML scalars or lists.

    `sets=` leaves the setting out: `[]` is an option that is not given.
    """
    changes: dict[str, Value] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: write it as key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
        changes[key] = [] if not value else value if isinstance(parsed, dict) or parsed is None else parsed
    return changes
