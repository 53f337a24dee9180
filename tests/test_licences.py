"""docs/licences.md names every package that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[A-Za-z0-9._-]+")


def test_every_dependency_is_listed_with_its_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [package for packages in project["optional-dependencies"].values() for package in packages]
    asked = {NAME.match(package).group() for package in [*project["dependencies"], *extras]} - {"regrowth"}
    rows = re.findall(r"^\|(.*)\|$", (ROOT / "docs" / "licences.md").read_text("utf-8"), re.MULTILINE)
    listed = {name for row in rows for name in NAME.findall(row)}
    assert not asked - listed
