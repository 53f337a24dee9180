"""One clear line for every error, the right exit code, and nothing else on stdout."""

import errno
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from eval.runs.run import run
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.provenance import versions
from prune.common.screen import terminal
from prune.common.screen.terminal import answer, grow_segments, make_app, progress, screen
from tests.support.questions import ROW
from tests.support.texts import write_jsonl


@pytest.fixture
def app():
    app = make_app("demo", "A demo.")

    @app.command()
    def fail(how: str, out: str | None = None) -> None:
        errors = {
            "user": RegrowthError("the file a.json\nis torn"),
            "usage": UsageError("--n 0 is no size"),
            "os": FileNotFoundError(2, "No such file or directory", "a.txt"),
            "memory": MemoryError(),
            "bug": KeyError("secret"),
            "stop": KeyboardInterrupt(),
            "full": OSError(errno.ENOSPC, "No space left on device", "source", None, "copy"),
            "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
            "weights": RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
        }
        raise errors[how]

    @app.command()
    def work(n: int, as_json: bool = False) -> None:
        with progress("working", n) as bar:
            for _ in range(n):
                bar.advance()
        answer({"n": n}, f"did {n}", as_json=as_json)

    return app


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("user", 1, "error: the file a.json is torn\n"),
        ("usage", 2, "error: --n 0 is no size\n"),
        ("os", 1, "error: a.txt: No such file or directory\n"),
        ("memory", 1, "error: out of memory\n"),
        ("stop", 130, "error: interrupted\n"),
        ("full", 1, "error: copy cannot be written (No space left on device); make room\n"),
        ("quota", 1, "error: Disk quota exceeded; make room\n"),
        ("weights", 1, "error: File too large; allow larger files there (ulimit -f)\n"),
    ],
)
def test_errors_are_one_line(app, how, code, line):
    result = CliRunner().invoke(app, ["fail", how])
    assert (result.exit_code, result.stderr, result.stdout) == (code, line, "")


def test_a_bug_is_one_line_too_and_debug_shows_the_traceback(app):
    result = CliRunner().invoke(app, ["fail", "bug"])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in CliRunner().invoke(app, ["fail", "bug", "--debug"]).stderr


@pytest.mark.parametrize("words", [["nothing"], ["work"], ["work", "x"], ["work", "1", "--bad"]])
def test_wrong_usage_is_one_line_that_points_to_help(app, words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "--help)" in result.stderr


def test_json_has_stdout_to_itself(app):
    result = CliRunner().invoke(app, ["work", "3", "--as-json"])
    assert json.loads(result.stdout) == {"n": 3}
    assert "working" in result.stderr
    assert CliRunner().invoke(app, ["work", "3"]).stdout == "did 3\n"


def test_other_libraries_are_silent_before_a_command_can_import_them(app, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    CliRunner().invoke(app, ["fail", "user"])
    assert os.environ["TQDM_DISABLE"] == "1"


def test_paths_are_neither_broken_nor_read_as_markup(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/very/long/path/" + "x" * 60 + "/[bold]/scan.json"
    screen().print(f"Wrote {path}")
    assert f"Wrote {path}\n" == capsys.readouterr().err


def test_a_log_gets_a_line_with_the_time_left_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(terminal._Lines, "EVERY", 0.0)
    with progress("working", 4) as bar:
        bar.advance(0)
        bar.note("loss 2.5")
        bar.advance()
        bar.advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "working ..."
    assert lines[1] == "working: 0 of 4"  # no end is promised before the first step
    assert lines[2].startswith("working: 1 of 4, about ")
    assert lines[2].endswith("s left loss 2.5")
    assert lines[3] == "working: 4 of 4, about 0 s left loss 2.5"
    assert lines[4].startswith("working: done in ")


def test_git_does_not_complain_outside_a_checkout(tiny_llama, tmp_path, monkeypatch, capfd):
    write_jsonl(tmp_path / "d.jsonl", [{**ROW, "id": f"q{i}"} for i in range(2)])
    monkeypatch.chdir(tmp_path)
    run(tiny_llama, data=tmp_path, domains="d", cache=None, show_progress=False)
    assert "fatal" not in capfd.readouterr().err


@pytest.mark.parametrize("room", ["prune", "heal", "eval", "recipes"])
def test_help_imports_nothing_heavy(room):
    code = (
        f"import sys; sys.argv = ['{room}', '--help']\n"
        f"import {room}.cli\n"
        f"try: {room}.cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'matplotlib', 'scipy', 'peft', 'datasets', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_place_without_room_that_the_error_does_not_name_is_the_out(app):
    line = "error: runs/a cannot be written (Disk quota exceeded); make room, or use another --out\n"
    assert CliRunner().invoke(app, ["fail", "quota", "--out", "runs/a"]).stderr == line


def test_an_error_of_a_copy_names_the_file_that_it_is_about():
    from prune.common.screen.terminal import _describe_os_error

    full = OSError(errno.ENOSPC, "No space left on device", "source", None, "copy")
    assert _describe_os_error(full) == "copy: No space left on device"
    assert _describe_os_error(OSError(errno.EACCES, "no", "source", None, "copy")) == "source: no"
    broken = OSError(errno.EIO, "Input/output error", "source", None, "copy")
    assert _describe_os_error(broken) == "source -> copy: Input/output error"


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_a_command_asks_for_segments_that_grow_and_the_users_word_stays(name, monkeypatch):
    for each in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(each, "")
        monkeypatch.delenv(each)
    grow_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv(name, "max_split_size_mb:512")
    grow_segments()
    assert {os.environ.get(each) for each in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")} == {
        "max_split_size_mb:512", None,
    }  # fmt: skip


def test_torch_is_not_there_yet_when_a_command_asks():
    code = (
        "import os, sys\n"
        "from prune.cli import app\n"
        "from typer.testing import CliRunner\n"
        "assert 'torch' not in sys.modules\n"
        "CliRunner().invoke(app, ['inspect', 'nowhere'])\n"
        "print(os.environ['PYTORCH_ALLOC_CONF'])\n"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTORCH_")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "expandable_segments:True"


def test_the_version_is_told_with_those_that_results_hang_on(app):
    result = CliRunner().invoke(app, ["--version"])
    told = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert (result.exit_code, told) == (0, versions())


@pytest.mark.parametrize(
    "words",
    [
        "prune --help",
        "prune cut --help",
        "heal --version",
        "eval compare --help",
        "recipes list",
        "recipes list --json",
    ],
)
def test_a_reader_that_has_gone_gets_the_code_of_a_broken_pipe_and_no_message(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", *words.split()], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_pipe_than_the_output_is_an_error(app):
    @app.command()
    def feed() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            os.write(writer, b"words for a child that has ended")
        finally:
            os.close(writer)

    result = CliRunner().invoke(app, ["feed"])
    assert (result.exit_code, result.stderr) == (1, "error: Broken pipe\n")


def test_paragraphs_of_a_help_are_broken_by_the_terminal_and_lists_stay():
    app = make_app("demo", "A demo.")

    @app.command()
    def told() -> None:
        """Say it.

        The first line of a paragraph,
        and its second.

        - one
        - two
        """

    wide = [line.strip() for line in CliRunner().invoke(app, ["told", "--help"]).output.splitlines()]
    assert {"The first line of a paragraph, and its second.", "- one", "- two"} <= set(wide)
