"""Options from settings: what a command shows, what it takes, and what it is handed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated

import pytest
import typer
from typer.testing import CliRunner

from prune.common.errors import UsageError
from prune.common.screen.options import Option, Options, settings_options, takes, typed
from prune.common.screen.terminal import make_app

if TYPE_CHECKING:
    from nowhere import Place

SEED = Annotated[int, typer.Option(help="What is drawn.")]


@dataclass(frozen=True)
class Baking:
    """How to bake."""

    heat: Annotated[int, Option("In degrees.", panel="Oven")] = 180
    fan: Annotated[bool, Option("Turn the air about.", panel="Oven")] = True
    herbs: Annotated[str | None, Option("What goes in.", flag="--herb", panel="Oven")] = None
    hours: Annotated[float | None, Option("How long.", typed=str, parse=lambda text: float(text), panel="Oven")] = None
    salted: Annotated[bool, Option("Add salt.", flag="--salt", shown=False, panel="Oven")] = False
    secret: int = 3


def test_options_that_are_written_down_are_read_as_the_command_line_reads_them():
    given = {"heat": "200", "fan": False, "herb": 7, "hours": "1.5", "salt": True, "secret": 1, "other": "x"}
    read = {"heat": 200, "fan": False, "herbs": "7", "hours": 1.5, "salted": True}
    assert typed(Baking, given) == read
    assert typed(Baking, given, only=["heat", "hours"]) == {"heat": 200, "hours": 1.5}
    assert typed(Baking, dict.fromkeys(given)) == {}
    assert typed(Baking, {"herb": False}) == {"herbs": "off"}  # YAML reads `off` so
    with pytest.raises(UsageError, match="^--heat hot is no whole number$"):
        typed(Baking, {"heat": "hot"})


def _place(town: str, street: str) -> str:
    return f"{street}, {town}"


PLACE = Options(
    _place,
    {"town": Annotated[str, typer.Option(help="Where.")], "street": Annotated[str, typer.Option(help="Which one.")]},
    {"town": Parameter.empty, "street": "High Street"},
)
REST = Options(dict, {"seed": SEED, "again": Annotated[bool, typer.Option("--again")]}, {"seed": 7, "again": False})


@pytest.fixture
def bake():
    app = make_app("bakery", "Bake.")

    @app.command()
    @takes(settings=settings_options(Baking), place=PLACE, rest=REST, none=settings_options(Baking, only=()))
    def bake(
        what: Annotated[str, typer.Argument(help="Bread or cake.")],
        *,
        loaves: Annotated[int, typer.Option(help="How many.")] = 1,
        place: Place,
        settings: Baking,
        rest: dict,
        none: dict,
    ) -> None:
        """Bake something."""
        assert isinstance(settings, Baking)
        assert none == {}
        print(json.dumps([what, loaves, place, asdict(settings), rest]))

    def run(*words):
        return CliRunner().invoke(app, ["bake", *words], env={"COLUMNS": "100"})

    return run


def test_what_is_not_given_is_the_default(bake):
    done = bake("bread", "--town", "Ely")
    assert done.exit_code == 0, done.output
    settings = {"heat": 180, "fan": True, "herbs": None, "hours": None, "salted": False, "secret": 3}
    assert json.loads(done.stdout) == ["bread", 1, "High Street, Ely", settings, {"seed": 7, "again": False}]


def test_what_is_given_arrives(bake):
    words = ["--town", "Ely", "--street", "Low Street", "--loaves", "2", "--heat", "200", "--no-fan", "--herb", "thyme"]
    done = bake("cake", *words, "--hours", "2.5", "--salt", "--seed", "1", "--again")
    assert done.exit_code == 0, done.output
    settings = {"heat": 200, "fan": False, "herbs": "thyme", "hours": 2.5, "salted": True, "secret": 3}
    assert json.loads(done.stdout) == ["cake", 2, "Low Street, Ely", settings, {"seed": 1, "again": True}]


def test_what_has_no_default_is_required_and_kinds_are_checked(bake):
    for words, line in ((["bread"], "--town"), (["bread", "--town", "Ely", "--heat", "hot"], "--heat")):
        done = bake(*words)
        assert done.exit_code == 2
        assert line in done.stderr


def test_help_shows_them_in_the_place_of_the_parameter_and_in_their_box(bake):
    shown = bake("--help").stdout
    assert "Bake something." in shown
    first, _, oven = shown.partition("Oven")
    places = [first.index(name) for name in ("--loaves", "--town", "--street", "--seed", "--again", "--help")]
    assert places == sorted(places)
    assert all(name in oven and name not in first for name in ("--heat", "--fan", "--no-fan", "--herb"))
    assert "[default: 180]" in oven
    assert "In degrees." in oven
    assert not any(name in shown for name in ("--settings", "--no-salt", "--secret"))


def test_tables_that_do_not_fit_are_refused_at_once():
    def work(rest: dict, seed: SEED = 0) -> None: ...

    with pytest.raises(KeyError, match="colour"):
        settings_options(Baking, only=["colour"])
    with pytest.raises(KeyError, match="place"):
        takes(place=PLACE)(work)
    with pytest.raises(ValueError, match="seed"):
        takes(rest=REST)(work)
