"""docs/troubleshooting.md quotes lines that the code writes: each must be found there, word for word."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
LINES = re.findall(r"^\| `(.+?)` \|", PAGE, re.MULTILINE)


def _text(node):
    """A string in the code, with `...` for what is filled in; None where the node is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
    return None


@pytest.fixture(scope="module")
def written():
    files = [path for folder in ("prune", "heal", "eval", "recipes") for path in (ROOT / folder).rglob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return {text for node in nodes if (text := _text(node)) is not None}


@pytest.mark.parametrize("line", LINES)
def test_a_quoted_line_is_one_that_the_code_writes(line, written):
    wanted = re.compile(re.escape(line).replace(r"\.\.\.", ".*?"), re.DOTALL)
    assert any(wanted.match(text) for text in written)


def test_there_are_lines():
    assert len(LINES) > 20
