"""Options from tables: what a command shows, what it takes, and what it is handed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import pytest
import typer
from typer.testing import CliRunner

from prune.common.options import Option, Options, defaults_of, panel, settings_options, takes
from prune.common.terminal import make_app

if TYPE_CHECKING:
    from nowhere import Place

SEED = Annotated[int, typer.Option(help="What is drawn.")]


@dataclass(frozen=True)
class Baking:
    """How to bake."""

    heat: int = 180
    fan: bool = True
    herbs: str | None = None


def _place(town: str, street: str = "High Street") -> str:
    return f"{street}, {town}"


BAKING = Options(
    Baking,
    panel(
        "Oven",
        {
            "heat": Annotated[int, typer.Option(help="In degrees.")],
            "fan": Annotated[bool, typer.Option(help="Turn the air about.")],
            "herbs": Annotated[str | None, typer.Option("--herb", help="What goes in.")],
        },
    ),
)
PLACE = Options(
    _place,
    {"town": Annotated[str, typer.Option(help="Where.")], "street": Annotated[str, typer.Option(help="Which one.")]},
)
REST = Options(dict, {"seed": SEED, "again": Annotated[bool, typer.Option("--again")]}, {"seed": 7, "again": False})


@pytest.fixture
def bake():
    app = make_app("bakery", "Bake.")

    @app.command()
    @takes(settings=BAKING, place=PLACE, rest=REST)
    def bake(
        what: Annotated[str, typer.Argument(help="Bread or cake.")],
        *,
        loaves: Annotated[int, typer.Option(help="How many.")] = 1,
        place: Place,
        settings: Baking,
        rest: dict,
    ) -> None:
        """Bake something."""
        assert isinstance(settings, Baking)
        print(json.dumps([what, loaves, place, asdict(settings), rest]))

    def run(*words):
        return CliRunner().invoke(app, ["bake", *words], env={"COLUMNS": "100"})

    return run


def test_what_is_not_given_is_the_default_of_what_is_made(bake):
    done = bake("bread", "--town", "Ely")
    assert done.exit_code == 0, done.output
    settings = {"heat": 180, "fan": True, "herbs": None}
    assert json.loads(done.stdout) == ["bread", 1, "High Street, Ely", settings, {"seed": 7, "again": False}]


def test_what_is_given_arrives(bake):
    words = ["--town", "Ely", "--street", "Low Street", "--loaves", "2", "--heat", "200", "--no-fan", "--herb", "thyme"]
    done = bake("cake", *words, "--seed", "1", "--again")
    assert done.exit_code == 0, done.output
    settings = {"heat": 200, "fan": False, "herbs": "thyme"}
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
    assert "--settings" not in shown


def test_a_box_leaves_the_option_it_was_made_of_as_it_was():
    boxed = panel("Draw", {"seed": SEED})
    assert boxed["seed"].__metadata__[0].rich_help_panel == "Draw"
    assert SEED.__metadata__[0].rich_help_panel is None


def test_tables_that_do_not_fit_are_refused_at_once():
    def work(settings: Baking, seed: SEED = 0) -> None: ...

    assert defaults_of(Baking) == {"heat": 180, "fan": True, "herbs": None}
    with pytest.raises(KeyError, match="colour"):
        takes(settings=Options(Baking, {"colour": SEED}))(work)
    with pytest.raises(KeyError, match="place"):
        takes(place=PLACE)(work)

    def draw(rest: dict, seed: SEED = 0) -> None: ...

    with pytest.raises(ValueError, match="seed"):
        takes(rest=REST)(draw)


@dataclass(frozen=True)
class Brewing:
    """How to brew."""

    leaves: Annotated[int, Option("Grams of tea.", panel="Pot")] = 5
    minutes: Annotated[float | None, Option("How long it draws.", typed=str, parse=lambda text: float(text))] = None
    milk: Annotated[bool, Option("Add milk.", flag="--milk", shown=False)] = False
    secret: int = 3


def test_options_are_declared_on_the_fields_of_settings():
    app = make_app("kitchen", "Brew.")

    @app.command()
    @takes(settings=settings_options(Brewing), some=settings_options(Baking, only=()))
    def brew(settings: Brewing, some: dict) -> None:
        """Brew tea."""
        print(json.dumps([asdict(settings), some]))

    def run(*words):
        return CliRunner().invoke(app, ["brew", *words], env={"COLUMNS": "100"})

    assert json.loads(run().stdout) == [{"leaves": 5, "minutes": None, "milk": False, "secret": 3}, {}]
    given = run("--leaves", "7", "--minutes", "2.5", "--milk")
    assert json.loads(given.stdout)[0] == {"leaves": 7, "minutes": 2.5, "milk": True, "secret": 3}
    shown = run("--help").stdout
    assert "Grams of tea." in shown
    assert "[default: 5]" in shown
    assert "Pot" in shown
    assert "--no-milk" not in shown
    assert "--secret" not in shown
