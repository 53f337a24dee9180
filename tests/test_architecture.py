"""docs/architecture.md names the files as they are, and its walks stay short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
WALKS = {title.split(",")[0]: re.findall(r"^\d+\. `(.+?)`", body, re.M) for title, body in re.findall(
    r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S
)}  # fmt: skip
LONGEST = {"A layer's state": 8, "A tensor's bytes": 8, "A question's answer": 21, "A training row": 19}


@pytest.mark.parametrize("name", LONGEST)
def test_a_walk_passes_real_files_and_no_more_than_it_may(name):
    walk = WALKS[name]
    assert 0 < len(walk) <= LONGEST[name]
    assert len(set(walk)) == len(walk)
    assert [path for path in walk if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("name", LONGEST)
def test_each_file_of_a_walk_is_imported_by_another_one_of_it(name):
    texts = {path: (ROOT / path).read_text("utf-8") for path in WALKS[name]}
    for path in WALKS[name][1:]:
        module = path.removesuffix(".py").replace("/", ".")
        room, _, file = module.rpartition(".")
        named = re.compile(rf"from {re.escape(module)} import|from {re.escape(room)} import .*\b{file}\b")
        assert any(named.search(text) for other, text in texts.items() if other != path), path


def test_every_room_stands_in_the_table():
    for folder in ("prune", "eval", "heal"):
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{folder}/`")]
        there = {path.name for path in (ROOT / folder).iterdir() if (path / "__init__.py").is_file()}
        assert set(re.findall(r"`(\w+)`", line)) == there
