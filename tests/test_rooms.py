"""The house: which room may import which, and that a room's name never hides a public function."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {  # folder -> folders that it may import
    "prune": set(),
    "eval": {"prune"},
    "heal": {"prune", "eval"},
    "recipes": {"prune", "eval", "heal"},
}
HEAL_MAY_USE = ("eval.questions", "eval.asking", "eval.answers", "eval.settings")  # of eval, and nothing else
ROOMS = {  # from the top: a room, or a file that stands beside the rooms, imports nothing that is named above it
    "prune": [
        {"__init__", "__main__", "cli", "options"},
        {"instruments"},
        {"cutting"},
        {"choosing"},
        {"scanning"},
        {"families"},
        {"writing"},
        {"models"},
        {"checkpoint"},
        {"text"},
        {"common"},
    ],
    "heal": [
        {"__init__", "__main__", "cli", "options", "tables"},
        {"ranking"},
        {"choosing"},
        {"training"},
        {"patching"},
        {"merging"},
        {"budget"},
        {"models"},
        {"text"},
        {"cards", "defaults", "lineage", "result", "settings"},
    ],
    "eval": [
        {"__init__", "__main__", "cli", "comparison", "lm_eval_comparison", "options", "reporting"},
        {"depth"},
        {"limits"},
        {"sweeps"},
        {"reports"},
        {"billing"},
        {"gains"},
        {"foreign"},
        {"runs"},
        {"asking"},
        {"questions"},
        {"answers"},
        {"settings"},
    ],
}


@cache
def _files():
    """Module -> file, of all product code."""
    found = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def _imports(module):
    """The modules of this project that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(_files()[module].read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports by a relative name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in _files():
                name = name.rpartition(".")[0]
            if name:
                found.add(name)
    return found - {module}


def _room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_between_folders_run_one_way(folder):
    for module in _files():
        if module.split(".")[0] == folder:
            for other in _imports(module):
                top = other.split(".")[0]
                assert top == folder or top in FOLDERS[folder], f"{module} imports {other}"
                if folder == "heal" and top == "eval":
                    assert other == "eval" or other.startswith(HEAL_MAY_USE), f"{module} imports {other}"


@pytest.mark.parametrize("folder", ROOMS)
def test_imports_between_rooms_run_one_way(folder):
    level = {room: number for number, rooms in enumerate(ROOMS[folder]) for room in rooms}
    for module in _files():
        if module.split(".")[0] != folder:
            continue
        assert _room(module) in level, f"{module} stands in no room of the list above"
        for other in _imports(module):
            if other.split(".")[0] == folder:
                assert level[_room(other)] >= level[_room(module)], f"{module} imports {other}, which stands above it"


def test_no_two_files_import_each_other():
    """Nor three in a circle."""
    done = set()

    def visit(module, way):
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(_imports(module)):
                visit(other, [*way, module])
            done.add(module)

    for module in _files():
        visit(module, [])


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_of_code_is_a_package(folder):
    for inner in {file.parent for file in (ROOT / folder).rglob("*.py")}:
        assert (inner / "__init__.py").is_file(), inner


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_functions_stay_where_rooms_are_imported(folder):
    """A room, once imported, stands in its folder under its name: no public function may have it."""
    code = (
        f"import importlib, pathlib, {folder} as folder\n"
        "top = pathlib.Path(folder.__path__[0])\n"
        "for file in top.rglob('__init__.py'):\n"
        "    importlib.import_module('.'.join((folder.__name__, *file.parent.relative_to(top).parts)))\n"
        "for file in top.glob('[a-z]*.py'):\n"
        "    importlib.import_module(f'{folder.__name__}.{file.stem}')\n"
        "wrong = [name for name in folder.__all__ if not callable(getattr(folder, name))]\n"
        "assert not wrong, wrong\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_test_file_imports_another():
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            for name in names:
                assert not name.split(".")[-1].startswith("test_") or name.startswith("test_rooms"), f"{file}: {name}"
                top, _, rest = name.partition(".")
                assert top != "tests" or not rest or rest.startswith("support"), f"{file} imports {name}"
