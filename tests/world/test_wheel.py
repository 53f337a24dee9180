"""The wheel stands alone: built, installed into an empty environment, and the demo run there, outside the clone."""

import json
import os
import re
import tarfile
import tomllib
import zipfile
from importlib.metadata import version

import pytest

from bench.shared.environments import ROOT, environment

FOLDERS = ("prune", "heal", "eval", "recipes")
COMMANDS = ("prune", "heal", "evaluate", "recipe")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the wheel and the source distribution, as `python -m build` makes them from the clone."""
    out = tmp_path_factory.mktemp("dist")
    with environment("build", ["build"], linked=()) as tools:
        done = tools.run("-m", "build", "--outdir", out, ROOT)
        assert done.returncode == 0, done.stderr
        (source,) = out.glob("*.tar.gz")
        done = tools.run("-m", "build", "--wheel", "--outdir", out / "again", _unpacked(source, out / "source"))
        assert done.returncode == 0, done.stderr
    return out


def _unpacked(archive, folder):
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def _contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _tracked(tools):
    """The files that git knows in the four folders."""
    import subprocess

    words = ["git", "-C", str(tools), "ls-files", "--", *FOLDERS]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())


def test_the_wheel_holds_the_four_folders_whole_and_nothing_else(wheel):
    names = set(_contents(wheel))
    info = {name for name in names if re.match(r"regrowth-[^/]+\.dist-info/", name)}
    assert names - info == _tracked(ROOT)
    assert any(name.endswith("licenses/LICENSE") for name in info)
    data = (
        "reports/templates/report.html.j2",
        "asking/protocols/choice.yaml",
        "questions/data/mmlu_rows_by_subject.json",
    )
    assert {"recipes/demo.yaml", *(f"eval/{name}" for name in data), *(f"{one}/py.typed" for one in FOLDERS)} <= names


def test_the_source_distribution_builds_the_same_wheel(built, wheel):
    again = _contents(built / "again" / wheel.name)
    assert again == _contents(wheel)


def test_the_source_distribution_holds_no_tests(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as tar:
        tops = {name.split("/")[1] for name in tar.getnames() if "/" in name}
    assert tops >= {*FOLDERS, "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"}
    assert not tops & {"tests", "bench", "build", ".sample", ".venv"}


@pytest.fixture(scope="module")
def installed(wheel):
    """An environment of the wheel and what it asks for, from PyPI; torch alone is shared."""
    with environment("wheel", [f"{wheel}[sample]"], keep=False) as made:
        yield made


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder outside the clone, with a cache of its own, where commands are run."""
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_nothing_of_the_clone_is_on_its_path(installed, outside):
    code = (
        "import sys, prune, heal, eval, recipes; print(*sys.path, *(m.__file__ for m in (prune, heal, eval, recipes)))"
    )
    said = installed.run("-c", code, cwd=outside, check=True).stdout.split()
    inside = [path for path in said if path.startswith(str(ROOT)) and not path.startswith(str(installed.place))]
    assert not inside
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert installed.run("-m", "pip", "check", cwd=outside).returncode == 0, needs


def _command(installed, name, *words, cwd):
    """One of the four commands, as the wheel's own script."""
    start = "import runpy, sys; sys.argv[0] = sys.argv.pop(1); runpy.run_path(sys.argv[0], run_name='__main__')"
    return installed.run("-c", start, installed.command(name), *words, cwd=cwd)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_answers_with_its_version(installed, outside, name):
    done = _command(installed, name, "--version", cwd=outside)
    assert done.returncode == 0, done.stderr
    assert f"regrowth {version('regrowth')}" in done.stdout.splitlines()


def test_an_extra_is_added_to_what_is_installed_without_an_index(installed, outside):
    done = installed.run("-m", "pip", "install", "--no-index", "regrowth[sample]", cwd=outside)
    assert done.returncode == 0, done.stderr


def test_the_demo_runs_to_its_report(installed, outside):
    """The sample is made by the wheel's own module, from PyPI, and the recipe is the wheel's own."""
    listed = _command(installed, "recipe", "list", "--json", cwd=outside)
    assert "demo" in {one["name"] for one in json.loads(listed.stdout)}, listed.stderr
    done = installed.run("-m", "recipes.sample", cwd=outside)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout + done.stderr
    done = _command(installed, "recipe", "run", "demo", "--set", "quick=true", cwd=outside)
    assert done.returncode == 0, done.stderr
    comparison = outside / "runs" / "demo" / "comparison"
    assert json.loads((comparison / "comparison.json").read_text())["format"].startswith("regrowth.comparison/")
    assert "<title>" in (comparison / "report.html").read_text("utf-8")
    assert (outside / "runs" / "demo" / "healed" / "model.safetensors").stat().st_size > 1 << 28
