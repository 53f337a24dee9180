"""What a recipe is: settings, and stages that are commands of the three rooms. Validated before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prune.common.errors import RegrowthError, UsageError

Value = str | int | float | bool | None | list[str | int | float]
SHIPPED = Path(__file__).parent
# Options that name what a command writes; everything else it names, it reads.
_OUTPUTS = {"evaluate prepare": ("data",), "heal rank": ("out", "plot", "select-out")}
VALUED = ""  # in the place of an option's negation: it takes a value
_USUAL_OUTPUTS = ("out", "plot")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class RecipeError(RegrowthError):
    """A recipe file is missing or says something that cannot be run."""


class Stage(BaseModel):
    """One command: `prune scan`, its arguments, its options (long names without dashes), and what it leaves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    command: str
    arguments: list[str] = []
    options: dict[str, Value] = {}

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
        return self

    @property
    def writes(self) -> tuple[str, ...]:
        """Names of the options that say where results go, the main one first."""
        return _OUTPUTS.get(self.command, _USUAL_OUTPUTS)

    def words(self) -> list[str]:
        """The command line after the program's name: `["scan", MODEL, "--out", ...]`."""
        line = [self.command.split()[1], *self.arguments]
        for name, value in self.options.items():
            if isinstance(value, bool):
                negation = options_of(self.command)[name]
                if negation == VALUED:  # YAML reads `checkpointing: off` as false
                    line += [f"--{name}", "on" if value else "off"]
                    continue
                flag = name if value else negation
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
    choices: dict[str, dict[str, dict[str, Value]]] = {}  # setting -> its value -> settings that this value changes
    show: str | None = None  # a comparison.json or a Markdown file to print at the end
    files: dict[str, str] = {}  # what each result is -> where it stands
    tidy: list[str] = []  # stages whose outputs --tidy may delete although `files` names them

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
        for used in self._placeholders():
            if used not in self.settings:
                raise ValueError(f"{{{used}}} is used but is no setting")
        return self

    def _placeholders(self) -> Iterator[str]:
        for stage in self.stages:
            for text in [*stage.arguments, *stage.options.values()]:
                for part in text if isinstance(text, list) else [text]:
                    yield from _PLACEHOLDER.findall(str(part))
        for text in [self.show or "", *self.files.values()]:
            yield from _PLACEHOLDER.findall(text)

    def resolve(self, changes: dict[str, Value] | None = None, *, partial: bool = False) -> Recipe:
        """The recipe with `changes` made to its settings and every `{name}` filled in.

        A choice changes the settings of its row, but for those that `changes` names.

        Args:
            changes: setting -> value.
            partial: leave a setting that still needs a value as `<name>`, to be shown and not run.

        Raises:
            UsageError: a change names no setting, a choice has no such value, or a setting that is used has no value.
        """
        settings = dict(self.settings)
        for key, value in (changes or {}).items():
            if key not in settings:
                raise UsageError(f"--set {key}: no such setting; {self.name} has {', '.join(settings)}")
            settings[key] = value
        for choice, table in self.choices.items():
            chosen = settings[choice]
            if chosen is None:
                continue
            if chosen not in table:
                raise UsageError(f"--set {choice}={chosen}: there is no such row; {self.name} has {', '.join(table)}")
            settings |= {key: value for key, value in table[str(chosen)].items() if key not in (changes or {})}
        for key, value in settings.items():  # a setting may use those above it
            settings[key] = _fill(value, settings)
        used = set(self._placeholders())
        missing = [key for key, value in settings.items() if value is None and key in used]
        if partial:
            settings |= {key: f"<{key}>" for key in missing}
        elif missing:
            raise UsageError(f"{self.name} needs a value for {missing[0]!r}: add --set {missing[0]}=...")
        stages = [
            stage.model_copy(
                update={
                    "arguments": [str(_fill(a, settings)) for a in stage.arguments],
                    "options": {name: _fill(value, settings) for name, value in stage.options.items()},
                }
            )
            for stage in self.stages
        ]
        return self.model_copy(
            update={
                "settings": settings,
                "stages": stages,
                "show": _fill(self.show, settings),
                "files": {what: str(_fill(where, settings)) for what, where in self.files.items()},
            }
        )


def _fill(value: Any, settings: dict[str, Value]) -> Any:
    if isinstance(value, list):
        return [_fill(entry, settings) for entry in value]
    if not isinstance(value, str):
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole:
        return settings[whole.group(1)]  # keeps the setting's type
    return _PLACEHOLDER.sub(lambda match: str(settings[match.group(1)]), value)


def options_of(command: str) -> dict[str, str | None]:
    """Long option names of a command such as `prune scan`, asked of the command itself; each with its negation's
    (`compare-logits` has `no-compare-logits`), None if it has none, and `VALUED` if it takes a value.

    Raises:
        ValueError: no such command.
    """
    import typer

    import eval.cli
    import heal.cli
    import prune.cli

    apps = {"prune": prune.cli.app, "heal": heal.cli.app, "evaluate": eval.cli.app}
    words = command.split()
    if len(words) != 2 or words[0] not in apps:
        raise ValueError(f"command {command!r} is not of the form `prune scan`, `heal qlora` or `evaluate compare`")
    group: Any = typer.main.get_command(apps[words[0]])
    if words[1] not in group.commands:
        raise ValueError(f"there is no command {command!r}; {words[0]} has {', '.join(sorted(group.commands))}")
    negations: dict[str, str | None] = {}
    for parameter in group.commands[words[1]].params:
        negation = next((name[2:] for name in parameter.secondary_opts if name.startswith("--")), None)
        if not getattr(parameter, "is_flag", False):
            negation = VALUED
        negations |= {name[2:]: negation for name in parameter.opts if name.startswith("--") and name != "--help"}
    return negations


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """Read a shipped recipe by name, or a YAML file by path.

    Raises:
        RecipeError: no such recipe, not YAML, or invalid; the line names the field.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_file not in shipped_recipes():
            known = ", ".join(shipped_recipes())
            raise RecipeError(f"no recipe {name_or_file!r}; use {known}, or give a .yaml file")
        path = SHIPPED / f"{name_or_file}.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "recipe"
        raise RecipeError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def parse_changes(pairs: list[str]) -> dict[str, Value]:
    """`["n=8", "text=a.txt"]` -> `{"n": 8, "text": "a.txt"}`; values are read as YAML scalars or lists."""
    changes: dict[str, Value] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {pair}: write it as key=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            parsed = value
        changes[key] = value if isinstance(parsed, dict) or parsed is None else parsed
    return changes
