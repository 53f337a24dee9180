"""Outputs appear whole or not at all, never replace silently, and debris of killed runs is cleared."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from prune.common.errors import RegrowthError
from prune.common.files import outputs
from prune.common.files.outputs import free_file, free_folder, staged_directory, write_files, write_json, write_text
from tests.support.commands import check_refused, run


def test_directory_appears_only_when_the_block_ends(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_directory(out) as stage:
        (stage / "a.txt").write_text("a")
        assert not out.exists()
    assert (out / "a.txt").read_text() == "a"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_failure_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="boom"), staged_directory(tmp_path / "out") as stage:
        (stage / "a.txt").write_text("a")
        raise ValueError("boom")
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_then_replaced_whole(tmp_path):
    out = tmp_path / "out"
    for content in ("first", "second"):
        with staged_directory(out, overwrite=content == "second", marks=["first"]) as stage:
            (stage / content).write_text(content)
    assert [p.name for p in out.iterdir()] == ["second"]
    with pytest.raises(RegrowthError, match="already exists.*--overwrite"):
        free_folder(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_overwrite_keeps_what_was_there(tmp_path):
    out = tmp_path / "out"
    with staged_directory(out) as stage:
        (stage / "good").write_text("good")
    with pytest.raises(ValueError, match="boom"), staged_directory(out, overwrite=True, marks=["good"]) as stage:
        (stage / "bad").write_text("bad")
        raise ValueError("boom")
    assert [p.name for p in out.iterdir()] == ["good"]


def test_second_of_two_runs_loses_and_says_so(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RegrowthError, match="made by another run"), staged_directory(out) as slow:
        (slow / "slow").write_text("slow")
        with staged_directory(out) as fast:  # its sibling is alive: not cleared as debris
            assert slow.exists()
            (fast / "fast").write_text("fast")
    assert [p.name for p in out.iterdir()] == ["fast"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["out", "run[1]"])
def test_debris_of_a_killed_run_is_cleared_by_the_next(tmp_path, name):
    code = (
        "import sys; from prune.common.files.outputs import staged_directory\n"
        f"with staged_directory({str(tmp_path / name)!r}) as stage:\n"
        "    (stage / 'half').write_text('half'); print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / name).exists()
    assert len(list(tmp_path.iterdir())) == 1
    with staged_directory(tmp_path / name) as stage:
        (stage / "whole").write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_link_to_a_folder_stays_and_its_folder_is_written(tmp_path):
    target, link = tmp_path / "large disk" / "target", tmp_path / "link"
    target.mkdir(parents=True)
    link.symlink_to(target)
    for content in ("first", "second"):
        with staged_directory(link, overwrite=True, marks=["first"]) as stage:
            (stage / content).write_text(content)
        assert link.is_symlink()
        assert [path.name for path in target.iterdir()] == [content]
    assert [path.name for path in tmp_path.iterdir()].count("link") == 1
    assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("fails", ["nothing", "the first rename", "the second rename"])
def test_where_folders_cannot_be_exchanged_the_old_one_is_there_until_the_new_one_is(tmp_path, monkeypatch, fails):
    out, real, renamed = tmp_path / "out", os.rename, []
    with staged_directory(out) as stage:
        (stage / "old").write_text("old")

    def rename(source, target):
        renamed.append(target)
        if fails == {1: "the first rename", 2: "the second rename"}.get(len(renamed)):
            raise OSError(errno.EIO, "the disk is gone", str(target))
        real(source, target)

    monkeypatch.setattr(outputs.ctypes, "CDLL", lambda *_, **__: object())  # a library without renameat2
    monkeypatch.setattr(outputs.os, "rename", rename)
    if fails == "nothing":
        with staged_directory(out, overwrite=True, marks=["old"]) as stage:
            (stage / "new").write_text("new")
    else:
        with (
            pytest.raises(OSError, match="the disk is gone"),
            staged_directory(out, overwrite=True, marks=["old"]) as stage,
        ):
            (stage / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new" if fails == "nothing" else "old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_run_was_to_replace_outlives_its_kill_between_two_renames(tmp_path, monkeypatch):
    out, real = tmp_path / "out", os.rename
    with staged_directory(out) as stage:
        (stage / "old").write_text("old")

    class Killed(BaseException):
        pass

    def rename(source, target):
        if source.name.startswith(".out.partial-"):
            raise Killed
        real(source, target)

    monkeypatch.setattr(outputs.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(outputs.os, "rename", rename)
    with pytest.raises(Killed), staged_directory(out, overwrite=True, marks=["old"]):
        pass
    monkeypatch.setattr(outputs.os, "rename", real)
    with staged_directory(out) as stage:
        (stage / "next").write_text("next")
    assert [path.read_text() for path in tmp_path.rglob("old")] == ["old"]


def test_files_are_whole_and_refuse_to_replace(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RegrowthError, match="already exists"):
        write_json(path, {"a": 2})
    write_json(path, {"a": 3}, overwrite=True)
    assert path.read_text() == '{\n  "a": 3\n}\n'
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"a": float("nan")}, overwrite=True)
    assert path.read_text() == '{\n  "a": 3\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_one_of_many_writers_wins(tmp_path):
    path, failures = tmp_path / "a.txt", []

    def write(k):
        try:
            write_text(path, str(k))
        except RegrowthError:
            failures.append(k)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(failures) == 7
    assert int(path.read_text()) not in failures


def test_a_writer_that_comes_second_is_told_of_the_file_and_not_of_its_own(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    monkeypatch.setattr(outputs, "free_file", lambda path, **_: path)  # the first comes after this look
    write_text(path, "first")
    with pytest.raises(RegrowthError, match=rf"{path} already exists; use another --out or add --overwrite"):
        write_text(path, "second")
    assert path.read_text() == "first"


def test_a_folder_where_a_file_is_wanted_and_a_file_where_a_folder_is(tmp_path):
    """Not even an empty folder, or one that may be replaced, can become a file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    assert free_folder(tmp_path / "folder") == tmp_path / "folder"
    assert free_file(tmp_path / "file", overwrite=True) == tmp_path / "file"
    for overwrite in (False, True):
        with pytest.raises(RegrowthError, match="is a folder; give a file"):
            free_file(tmp_path / "folder", overwrite=overwrite)
        with pytest.raises(RegrowthError, match="is a file, not a folder"):
            free_folder(tmp_path / "file", overwrite=overwrite)


@pytest.mark.parametrize(
    ("words", "is_folder"),
    [
        (["scan", "none"], True),
        (["scan", "none", "--plot", "taken.svg", "--out", "out.json"], True),
        (["heads", "none"], True),
        (["heads", "none", "--plot", "taken.svg", "--out", "out.json"], True),
        (["concepts", "none"], True),
        (["time", "none"], True),
        (["cut", "none", "--n", "1"], False),
        (["plot", "none.json"], False),
    ],
)
def test_an_output_of_the_wrong_kind_is_refused_before_anything_runs(tmp_path, monkeypatch, words, is_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.svg").mkdir() if is_folder else (tmp_path / "taken.svg").write_text("x")
    out = [] if "--out" in words else ["--out", "taken.svg"]
    message = "taken.svg is a folder; give a file" if is_folder else "taken.svg is a file, not a folder"
    check_refused(run("prune", *words, *out, "--overwrite"), 1, message)


def test_a_file_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "out").write_text("x")
    with (
        pytest.raises(RegrowthError, match="is a file, not a folder"),
        staged_directory(tmp_path / "out", overwrite=True),
    ):
        pass
    assert (tmp_path / "out").read_text() == "x"


@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
def test_a_stage_that_a_rival_takes_for_debris_is_made_again(tmp_path, monkeypatch, moment):
    """A run that clears debris removes folders that nobody holds, and a new one is held a moment after it is made."""
    taken = []

    def take(folder):
        if not taken:
            taken.append(folder)
            os.rmdir(folder)
        return folder

    make, lock = outputs.tempfile.mkdtemp, outputs.fcntl.flock
    if moment == "before it is opened":
        monkeypatch.setattr(outputs.tempfile, "mkdtemp", lambda **options: take(make(**options)))
    else:

        def locked(handle, flags):
            take(os.readlink(f"/proc/self/fd/{handle}"))
            lock(handle, flags)

        monkeypatch.setattr(outputs.fcntl, "flock", locked)
    with staged_directory(tmp_path / "out") as stage:
        (stage / "content").write_text("whole")
    assert (tmp_path / "out" / "content").read_text() == "whole"
    assert len(taken) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_files():
    """No file of this process may be larger than 30 kB, while the test runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


TOO_LARGE = r"/out cannot be written \(File too large\); allow larger files there \(ulimit -f\), or"


def test_a_folder_without_room_is_named_with_the_remedy_and_nothing_is_left(tmp_path, small_files):
    from safetensors.numpy import save_file

    def whole(stage):
        (stage / "large").write_bytes(bytes(200_000))

    def weights(stage):  # a library in Rust, whose error is none of the system's
        save_file({"weight": np.zeros(50_000, dtype=np.float32)}, stage / "model.safetensors")

    def text(stage):
        write_text(stage / "rows.jsonl", "x" * 200_000)

    for write in (whole, weights, text):
        with (
            pytest.raises(RegrowthError, match=f"{TOO_LARGE} use another --out$"),
            staged_directory(tmp_path / "out") as stage,
        ):
            write(stage)
        assert list(tmp_path.iterdir()) == []


def test_of_two_files_both_are_written_or_neither(tmp_path, small_files):
    small, large = tmp_path / "small.json", tmp_path / "out"
    with pytest.raises(RegrowthError, match=f"{TOO_LARGE} write elsewhere$"):
        write_files({small: b"{}", large: bytes(200_000)})
    assert list(tmp_path.iterdir()) == []
    write_files({small: b"{}", large: b"figure"})
    assert (small.read_bytes(), large.read_bytes()) == (b"{}", b"figure")


def test_a_full_disk_elsewhere_is_not_said_to_be_the_outs(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", "/elsewhere/file")
    with pytest.raises(OSError, match="elsewhere"), staged_directory(tmp_path / "out"):
        raise error


def test_a_place_that_takes_no_file_is_refused_with_its_option():
    for free in (free_file, free_folder):
        with pytest.raises(
            RegrowthError, match=r"^--plot /proc/none/out cannot be written \(/proc: .+\); give a place"
        ):
            free("/proc/none/out", option="--plot")


def test_a_scan_whose_figure_finds_no_room_leaves_no_file_and_goes_on(tiny_llama, sample_text, tmp_path, small_files):
    """The figure is larger than the scan; what is kept in between is not."""
    words = [tiny_llama, "--text", sample_text, "--samples", 2, "--length", 16, "--out", tmp_path / "s.json"]
    words += ["--plot", tmp_path / "out.png"]
    check_refused(run("prune", "scan", *words), 1, "out.png cannot be written (File too large)")
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
