"""The shell completes what is typed: commands and options of all four programs."""

import os
import subprocess
import sysconfig
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

ROOMS = {"prune": "prune", "heal": "heal", "evaluate": "eval", "recipe": "recipes"}
OPTIONS = {
    "prune cut": "--protect-heads",
    "heal distill": "--plain-loss",
    "evaluate compare": "--domains",
    "recipe run": "--set",
}


def script(program):
    return Path(sysconfig.get_path("scripts")) / program


def completed(program, line):
    """What bash is offered for the last word of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), f"_{program.upper()}_COMPLETE": "complete_bash"}
    done = subprocess.run([script(program)], env=os.environ | words, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("program", ROOMS)
def test_all_commands_are_offered(program):
    known = get_command(import_module(f"{ROOMS[program]}.cli").app).commands
    assert sorted(completed(program, f"{program} ")) == sorted(known)


@pytest.mark.parametrize(("command", "option"), OPTIONS.items())
def test_options_are_offered_by_their_beginning(command, option):
    offered = completed(command.split()[0], f"{command} {option[:5]}")
    assert option in offered
    assert all(one.startswith(option[:5]) for one in offered)


def test_completion_is_installed_into_the_users_shell(tmp_path):
    home = os.environ | {"HOME": str(tmp_path)}
    words = f'"{script("prune")}" --install-completion; exit $?'  # the shell is the one that it runs in
    subprocess.run(["bash", "-c", words], env=home, capture_output=True, check=True)
    (line,) = [line for line in (tmp_path / ".bashrc").read_text().splitlines() if "prune" in line]
    installed = Path(line.split("'")[1] if "'" in line else line.split()[-1])
    assert "_PRUNE_COMPLETE=complete_bash" in installed.read_text()
