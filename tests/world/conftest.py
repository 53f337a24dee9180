"""The models that other tools are given, made by the command lines, and the table of what was checked.

Each test of this room checks one thing with another tool, in an environment of the tool's own. Whoever runs the whole
room (`make check-world`) finds the table in docs/works-with.md, written anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.works_with import Row, write_table

ROOT = Path(__file__).resolve().parents[2]
ROOM = Path(__file__).resolve().parent
PAGE = ROOT / "docs" / "works-with.md"
KEEP = bool(os.environ.get("REGROWTH_KEEP_ENVIRONMENTS"))  # as the environments: made once while one works on the room
_LIMIT = 1800  # seconds of one command

_rows: list[Row] = []
_ended: set[str] = set()  # tests
_left_out: list[pytest.Item] = []


# The models.


def command(program: str, *words: object) -> None:
    """Run one of the command lines to its end, as a user does."""
    line = [sys.executable, "-m", program, *map(str, words)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=_LIMIT)
    assert done.returncode == 0, f"{' '.join(line[2:])}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the models lie; about 2 GB, which go when the room is done."""
    folder = ROOT / "build" / "world" if KEEP else tmp_path_factory.mktemp("world")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if not KEEP:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def make(place: Path) -> Callable[..., Path]:
    """`make(NAME, PROGRAM, *WORDS)`: the folder that the command writes to its --out."""

    def made(name: str, program: str, *words: object) -> Path:
        if not (place / name).exists():
            command(program, *words, "--out", place / name)
        return place / name

    return made


@pytest.fixture(scope="session")
def cut_model(make, sample_model, sample_text) -> Path:
    """The sample model without 6 of its 30 layers, fp32."""
    scan = ("--text", sample_text, "--samples", 32, "--length", 128, "--check", 0)
    return make("cut", "prune", "cut", sample_model, "--n", 6, *scan)


@pytest.fixture(scope="session")
def patched_model(make, cut_model, sample_text) -> Path:
    """The cut, patched in closed form."""
    how = ("--objective", "capped", "--kind", "matrix", "--ridge", 1, "--length", 128)
    text = ("--text", sample_text, "--tokens", "2k", "--held-out-tokens", 512)
    return make("patched", "heal", "patch", cut_model, *text, *how)


TRAINING = ("--tokens", "2k", "--held-out-tokens", 256, "--length", 128, "--batch-size", 4, "--accumulate", 1,
            "--rank", 8, "--learning-rate", "2e-3", "--dropout", 0, "--checkpointing", "off")  # fmt: skip


@pytest.fixture(scope="session")
def adapter(make, cut_model, sample_model, sample_text) -> Path:
    """An adapter of rank 8 for `cut_model`, distilled on unquantised weights for a few steps."""
    text = ("--teacher", sample_model, "--text", sample_text, "--bits", 16)
    return make("adapter", "heal", "distill", cut_model, *text, *TRAINING)


@pytest.fixture(scope="session")
def healed_model(make, adapter) -> Path:
    """`adapter` merged into `cut_model`: an ordinary checkpoint."""
    return make("healed", "heal", "merge", adapter)


@pytest.fixture(scope="session")
def adapter_only(make, adapter) -> Path:
    """The cut and the healing as one adapter on the full model, `sample_model`."""
    return make("adapter-only", "heal", "merge", adapter, "--adapter-only")


@pytest.fixture(scope="session")
def qlora_adapter(make, cut_model, sample_text) -> Path:
    """An adapter of rank 8 for `cut_model` in NF4, from `heal qlora`."""
    return make("qlora", "heal", "qlora", cut_model, "--text", sample_text, "--dtype", "float32", *TRAINING)


@pytest.fixture(scope="session")
def qlora_healed_model(make, qlora_adapter) -> Path:
    """`qlora_adapter` merged into the weights that it was trained on, as NF4 left them."""
    return make("qlora-healed", "heal", "merge", qlora_adapter, "--base", "dequantised")


# What was checked.


@pytest.fixture
def checked(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`checked("accelerate 1.15.0", "what was checked", found="a figure")`: a row of the table.

    Its result is the test's. A test that is skipped or fails before it comes to this has a row too: its tool is the
    name of its file, and what was checked the name of the test.
    """

    def add(tool: str, what: str, found: str = "") -> None:
        request.node.user_properties.append(("checked", (tool, what, found)))

    return add


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    if item.path.parent == ROOM and (report.when == "call" or not report.passed):
        _rows.extend(_rows_of(item, report))
        _ended.add(item.nodeid)
    return report


def _rows_of(item: pytest.Item, report: pytest.TestReport) -> Iterator[Row]:
    reason = report.longrepr[2].removeprefix("Skipped: ") if report.skipped else ""
    tool, what = item.path.stem.removeprefix("test_"), item.name.removeprefix("test_").replace("_", " ")
    for words in [value for name, value in item.user_properties if name == "checked"] or [(tool, what, "")]:
        yield Row(*words, outcome=report.outcome, reason=reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("what was checked")
    for row in _rows:
        terminalreporter.write_line(" | ".join(row.cells))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _left_out.extend(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the page, if every test of the room was come to."""
    files = {item.path for item in session.items}
    whole = not _left_out and all(path in files for path in ROOM.glob("test_*.py"))
    whole = whole and not any("::" in word for word in session.config.args)
    if whole and _ended >= {item.nodeid for item in session.items}:
        write_table(PAGE, _rows)
