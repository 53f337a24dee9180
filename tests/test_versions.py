"""docs/versions.md says what the tools do, and what is public."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from prune.common.errors import CheckpointError
from prune.scanning.result import Scan

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "versions.md").read_text("utf-8")


def test_a_file_of_another_version_is_refused_in_the_pages_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    older = {"format": "regrowth.scan/1", "provenance": {"versions": {"regrowth": "0.1.0"}}}
    Path("scan.json").write_text(json.dumps(older))
    (line,) = re.findall(r"^error: (scan\.json was written .*)$", PAGE, re.MULTILINE)
    with pytest.raises(CheckpointError) as refused:
        Scan.read("scan.json")
    assert str(refused.value) == line


@pytest.mark.parametrize("room", ["prune", "heal", "eval"])
def test_all_public_names_are_there(room):
    assert f"`{room}`" in PAGE
    module = import_module(room)
    for name in module.__all__:
        assert callable(getattr(module, name)), name
