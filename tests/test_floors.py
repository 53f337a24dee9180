"""The floors of pyproject.toml are the versions that `make test-floor` runs."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [Requirement(line) for line in (*PROJECT["dependencies"], *EXTRAS["sample"], *EXTRAS["test"])]
PINNED = {
    canonicalize_name(name): Version(version)
    for name, version in (
        line.split("==") for line in (ROOT / "constraints-floor.txt").read_text("utf-8").splitlines() if line
    )
}


@pytest.mark.parametrize("asked", [asked for asked in ASKED if asked.name != PROJECT["name"]], ids=str)
def test_a_floor_is_the_version_that_the_tests_run_on(asked):
    floors = [Version(part.version) for part in asked.specifier if part.operator == ">="]
    assert floors == [PINNED[canonicalize_name(asked.name)]]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-floor.txt"])
def test_pins_lie_within_what_is_asked(name):
    pins = dict(line.split("==") for line in (ROOT / name).read_text("utf-8").splitlines() if line)
    pins = {canonicalize_name(key): version for key, version in pins.items()}
    for asked in ASKED:
        if asked.name != PROJECT["name"]:
            assert pins[canonicalize_name(asked.name)] in asked.specifier, asked
