"""The house: which room may import which, and that a room's name never hides a public function."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY = {  # room -> rooms that it may import; the files that stand in eval/ itself tie its rooms together
    "prune": set(),
    "heal": {"prune"},
    "eval": {"prune"},
    "recipes": {"prune", "heal", "eval"},
    "eval.answers": set(),
    "eval.questions": {"eval.answers"},
    "eval.asking": {"eval.answers", "eval.questions"},
    "eval.thinking": {"eval.asking"},
    "eval.reports": {"eval.asking"},
    "eval.sweeps": {"eval.questions", "eval.asking", "eval.reports"},
}


def _imported(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("room", MAY)
def test_imports_between_rooms_run_one_way(room):
    inside = "." in room
    for file in (ROOT / room.replace(".", "/")).rglob("*.py"):
        for name in _imported(file):
            other = ".".join(name.split(".")[: 2 if inside else 1])
            assert other not in MAY or other == room or other in MAY[room], f"{file} imports {name}"


@pytest.mark.parametrize("room", ["prune", "heal", "eval", "recipes"])
def test_each_folder_of_code_is_a_package(room):
    for folder in {file.parent for file in (ROOT / room).rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), folder


def test_public_functions_stay_where_rooms_are_imported():
    code = (
        "import importlib, pathlib, eval\n"
        "for file in pathlib.Path(eval.__path__[0]).rglob('__init__.py'):\n"
        "    room = file.parent.relative_to(eval.__path__[0]).parts\n"
        "    importlib.import_module('.'.join(('eval', *room)))\n"
        "assert all(callable(getattr(eval, name)) for name in eval.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
