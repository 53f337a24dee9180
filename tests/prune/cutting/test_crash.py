"""Never half written: killed at any moment, on a full disk, or with a rival, a cut leaves all of its folder or none."""

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prune.cutting.verify import inspect_cut, verify_cut
from tests.support.checkpoints import hashes, synthetic_checkpoint
from tests.support.commands import error_line

KILLS, OVERWRITES = 30, 12
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

# Forks a child per request, so that the real command runs without its start-up and kills spread over its work.
# A request is seconds until the kill (0: none) and the command's arguments; the answer its status.
DRIVER = """
import os, signal, sys, time
import prune.cutting.card, prune.cutting.planning, prune.cutting.publishing, prune.cutting.cut, rich.progress
import rich.console
from prune.cli import app
for line in sys.stdin:
    delay, *arguments = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            app(arguments, standalone_mode=False)
        except BaseException as error:
            os._exit(getattr(error, "exit_code", 99))
        os._exit(0)
    if float(delay):
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """About 30 MB, opened to nobody's writing; its hashes are the same after the tests."""
    folder = synthetic_checkpoint(tmp_path_factory.mktemp("crash") / "source", rows=12_000)
    before = hashes(folder)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    assert hashes(folder) == before


@pytest.fixture(scope="module")
def driver():
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )

    def ask(delay: float, *arguments) -> int:
        child.stdin.write("\t".join(map(str, (delay, *arguments))) + "\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    yield ask
    child.stdin.close()
    child.wait()


def cut_arguments(source: Path, out: Path, layers: str, *more: str) -> list:
    return ["cut", source, "--layers", layers, "--out", out, *more]


def time_of(driver, *arguments) -> float:
    started = time.perf_counter()
    assert driver(0, *arguments) == 0
    return time.perf_counter() - started


def assert_whole(source: Path, out: Path) -> None:
    assert verify_cut(source, out, show_progress=False).faults == ()


def test_killed_at_any_moment_a_cut_leaves_all_or_nothing(source, driver, tmp_path):
    timed = [tmp_path / f"timed-{number}" for number in range(3)]
    whole = min(time_of(driver, *cut_arguments(source, out, "4-5")) for out in timed)  # a busy machine takes longer
    moments, kills, debris = random.Random(20260101), 0, 0
    for number in range(KILLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        out = folder / "out"
        status = driver(moments.uniform(0.001, 1.1 * whole), *cut_arguments(source, out, "4-5"))
        kills += status == -9
        debris += any(path.name != "out" for path in folder.iterdir())
        if out.exists():
            whole *= 0.9 if status == 0 else 1  # it ended before its moment: the machine may have become faster
        else:
            whole = time_of(driver, *cut_arguments(source, out, "4-5"))
        assert_whole(source, out)
        if number % 10 == 9:
            assert driver(0, *cut_arguments(source, out, "4-5", "--overwrite")) == 0
            assert [path.name for path in folder.iterdir()] == ["out"]
    assert kills > KILLS // 4  # most moments lay within a cut
    assert debris  # and some of them amid the writing


def test_overwriting_leaves_the_old_or_the_new(source, driver, tmp_path):
    out = tmp_path / "out"
    whole = time_of(driver, *cut_arguments(source, out, "4-5"))
    moments, expected = random.Random(7), {(4, 5)}
    for number in range(OVERWRITES):
        layers = (2,) if number % 2 else (3, 4)
        spelled = ",".join(map(str, layers))
        driver(moments.uniform(0.3, 1.1) * whole, *cut_arguments(source, out, spelled, "--overwrite"))
        found = inspect_cut(out).dropped
        assert found in {*expected, layers}
        assert_whole(source, out)
        expected = {found}


def prune(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "prune", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        **options,
    )


def error_of(child: subprocess.Popen) -> str:
    return error_line(child.communicate(timeout=300)[1])


def test_a_limit_on_file_sizes_gives_one_line_and_leaves_nothing(source, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))

    child = prune(*cut_arguments(source, tmp_path / "out", "4-5"), preexec_fn=limit)
    assert "File too large" in error_of(child)
    assert child.returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("room", ["none", "for the weights only"])
def test_a_full_disk_gives_one_line_and_leaves_nothing(source, tmp_path, room):
    weights = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    disk = tmp_path / "disk"
    disk.mkdir()
    pages = 2_000 if room == "none" else -(-weights // 4096) + 2
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        drop = "4-5"
        if room != "none":  # fill the disk but for what the weights take
            from prune.families.subject import open_subject

            kept = [layer for layer in range(8) if layer not in (4, 5)]
            wanted = sum(-(-layout.size // 4096) for _, layout in open_subject(source).layouts(kept))
            (disk / "filler").write_bytes(bytes((pages - wanted - 1) * 4096))
        child = prune(*cut_arguments(source, disk / "out", drop))
        assert ("are free" if room == "none" else "No space left on device") in error_of(child)
        assert child.returncode == 1
        assert [path.name for path in disk.iterdir()] == ([] if room == "none" else ["filler"])
    finally:
        subprocess.run(["umount", disk], check=True)
