"""Newer Pythons: Regrowth is installed and imported, its command lines answer, and the pure tests pass.

Each has what `pip install` gives there, with the versions that constraints.txt pins; on Linux that is torch with its
libraries for CUDA, some 5 GB, removed after the check. A Python that this machine does not have is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.shared.environments import Environment
from tests.support.other_tools import NEWEST, installed

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("prune", "heal", "eval", "recipes")
COMMANDS = ("prune", "heal", "evaluate", "recipe")
# Tests of arithmetic, text and tables, which load no model.
PURE = (
    "tests/prune/common", "tests/prune/text", "tests/prune/instruments/test_scores.py", "tests/eval/answers",
    "tests/eval/billing", "tests/eval/questions", "tests/eval/limits", "tests/eval/gains/test_arithmetic.py",
    "tests/eval/reports/test_figures.py", "tests/heal/budget", "tests/heal/ranking/findings",
)  # fmt: skip


def _interpreter(version: str) -> Path:
    """One that runs and can make environments, from PATH or pyenv; the test is skipped where there is none."""
    name = f"python{version}"
    folders = [Path(one) for one in os.environ["PATH"].split(os.pathsep)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    folders += [one / "bin" for one in sorted(pyenv.glob(f"versions/{version}*"))]
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2], sep='.')"
    for python in (folder / name for folder in folders):
        if python.exists():
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/")
            if done.returncode == 0 and done.stdout.strip() == version:
                return python
    pytest.skip(f"no {name} here")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """What a clone has to install; pip builds in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(params=["3.12", "3.13"])
def python(request, source) -> Iterator[Environment]:
    interpreter = _interpreter(request.param)
    project = f"regrowth[test] @ {source.as_uri()}"
    with installed(f"python{request.param}", project, constraints=NEWEST, linked=(), python=interpreter) as made:
        yield made


def test_installed_imported_asked_and_tested(python, source, tmp_path, checked):
    def run(*words):
        done = python.run(*words, cwd=tmp_path, timeout=900)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    found = run("-c", "import platform; print(platform.python_version())").strip()
    run("-W", "error::SyntaxWarning", "-m", "compileall", "-q", "-f", *(source / name for name in FOLDERS))
    for name in FOLDERS:
        run(
            "-c",
            f"import {name} as one; assert 'site-packages' in one.__file__; [getattr(one, n) for n in one.__all__]",
        )
    for name in COMMANDS:
        for option in ("--help", "--version"):
            told = subprocess.run([python.command(name), option], capture_output=True, text=True, cwd=tmp_path)
            assert told.returncode == 0, told.stderr
            assert told.stdout.strip()
    told = python.run("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *PURE, cwd=ROOT, timeout=900)
    assert told.returncode == 0, told.stdout[-4000:]
    what = "installed; four packages imported; `--help` and `--version` of the command lines; the pure tests"
    checked(f"Python {found}", what, told.stdout.strip().splitlines()[-1].partition(" in ")[0])
