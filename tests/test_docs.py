"""What the documents tell a user to type exists; the quickstart's commands run as they stand."""

import importlib
import re

import pytest
from typer.testing import CliRunner

from prune.common.programs import PROGRAMS
from recipes.commands import options_of
from tests.support.documented import PAGES, ROOT, commands

LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_of_a_command_exists(page):
    for words in commands(page):
        if words[0] == "recipe" or words[1].startswith("-"):
            continue
        known = options_of(" ".join(words[:2]))
        given = {word[2:].split("=")[0] for word in words if re.match(r"--[a-z]", word)}
        assert given <= {*known, *(option.negation for option in known.values()), "help", "debug"}, words


def anchors(page):
    """What a link to a heading of a page may end with."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(page.read_text("utf-8")):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.slow
def test_the_quickstart_runs_as_it_stands(tmp_path, monkeypatch):
    (tmp_path / ".sample").symlink_to(ROOT / ".sample")
    monkeypatch.chdir(tmp_path)
    ran = []
    for words in commands(ROOT / "docs" / "index.md"):
        if words[1].startswith("-") or words[0] == "recipe":
            continue
        app = importlib.import_module(f"{PROGRAMS[words[0]]}.cli").app
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        ran.append(" ".join(words[:2]))
    steps = ["prune scan", "prune cut", "heal patch", "heal distill", "heal merge", "evaluate compare"]
    assert ran == steps
    assert (tmp_path / "quick" / "bill" / "report.html").exists()
