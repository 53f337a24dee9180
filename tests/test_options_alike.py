"""Options that several commands have: named, spelt and told alike in all of them."""

from importlib import import_module

import pytest
import typer

from prune.common.programs import PROGRAMS
from tests.support.commands import run

# Options that mean the same wherever they stand.
ALIKE = (
    "--overwrite",
    "--resume",
    "--revision",
    "--device",
    "--json",
    "--teacher",
    "--load-in-4bit",
    "--policy",
    "--sweep",
)


def commands():
    """Each command's name, and its parameters."""
    for program, package in PROGRAMS.items():
        group = typer.main.get_command(import_module(f"{package}.cli").app)
        yield from ((f"{program} {name}", command.params) for name, command in group.commands.items())


def told(option):
    """What each command that has the option says of it."""
    return {
        name: (parameter.opts, parameter.secondary_opts, parameter.help)
        for name, parameters in commands()
        for parameter in parameters
        if option in parameter.opts
    }


@pytest.mark.parametrize("option", ALIKE)
def test_an_option_of_one_meaning_is_told_in_one_way(option):
    found = told(option)
    assert len(found) > 1
    first = next(iter(found.values()))
    assert not {name: one for name, one in found.items() if one != first}


def test_every_output_has_the_same_short_name():
    assert {tuple(opts) for opts, _, _ in told("--out").values()} == {("--out", "-o")}


def test_arguments_are_written_in_capitals():
    shown = [
        (name, parameter.metavar or parameter.name)
        for name, parameters in commands()
        for parameter in parameters
        if parameter.param_type_name == "argument"
    ]
    assert shown
    assert not [(name, word) for name, word in shown if not word.isupper()]


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_help_is_cut_off_on_a_screen_of_80_columns(program, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", None)
    app = import_module(f"{PROGRAMS[program]}.cli").app
    for name in typer.main.get_command(app).commands:
        page = run(program, name, "--help").output
        assert max(map(len, page.splitlines())) == 80
        assert "…" not in page, name
