"""What can stop a download, against a local stub of the hub: one line that says what to change, and what is kept."""

import errno
import re
import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from prune.checkpoint import downloading
from prune.checkpoint.downloading import Wanted, check_room, explained
from prune.common.errors import CheckpointError
from prune.common.screen.terminal import Progress
from tests.support.checkpoints import hashes, synthetic_checkpoint
from tests.support.commands import error_line
from tests.support.hub import StubHub, call, serve, start

REPO = "someone/model"
SHARDS = [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
LOCATE = """import sys
from prune.common.errors import CheckpointError
from prune.checkpoint.source import locate
try:
    print(locate(sys.argv[1]).folder)
except CheckpointError as error:
    sys.stderr.write(f"error: {error}")
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return synthetic_checkpoint(tmp_path_factory.mktemp("hub") / "source", rows=2_000)


@pytest.fixture
def locate(tmp_path):
    """Resolves a model in a process with a cache of its own."""
    return lambda hub, **environment: call(hub, tmp_path / "cache", LOCATE, REPO, **environment)


@pytest.fixture
def cut(tmp_path):
    words = ("cut", REPO, "--layers", "0-1", "--out", tmp_path / "out")
    return lambda hub, **environment: call(hub, tmp_path / "cache", "prune", *words, **environment)


def line(done, code=1):
    assert done.returncode == code, done.stderr
    return error_line(done.stderr)


@pytest.mark.parametrize("command", ["locate", "cut"])
def test_a_gated_model_says_where_to_ask_and_how_to_log_in(command, source, request):
    ask, hub = request.getfixturevalue(command), StubHub(REPO, source)
    hub.gated = True
    with serve(hub):
        told = line(ask(hub))
        assert told.startswith(f"error: {REPO} is gated (HTTP 401), and you are not logged in: accept its terms at ")
        assert f"{hub.address}/{REPO}, then log in with `hf auth login` or set HF_TOKEN" in told
        told = line(ask(hub, HF_TOKEN="hf_other"))
        assert told.startswith(f"error: {REPO} is gated (HTTP 403), and your login has no access to it: ask for it at ")
        done = ask(hub, HF_TOKEN="hf_granted")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("command", "asked"), [("locate", REPO), ("cut", f"{REPO}/{SHARDS[1]}")])
def test_a_download_that_breaks_off_keeps_what_is_whole_and_goes_on(command, asked, source, request):
    ask, hub = request.getfixturevalue(command), StubHub(REPO, source)
    hub.breaks = {SHARDS[1]: 100_000}
    with serve(hub):
        told = line(ask(hub))
        # the hub library tries again since 1.6, and then meets HTTP 503
        assert re.match(
            rf"error: the download of {asked} broke off \((HTTP 503|peer closed .*)\); \d of \d files", told
        )
        assert re.search(
            r" files are whole and stay in .*/cache/hub: run the same command again, and it goes on ", told
        )
        before = dict(hub.fetched)
        hub.breaks.clear()
        hub.dead.clear()
        done = ask(hub)
        assert done.returncode == 0, done.stderr
    again = {name for name in SHARDS if hub.fetched[name] - before.get(name, 0) >= len(hub.files[name])}
    assert SHARDS[0] not in again
    assert SHARDS[1] in again
    if command == "locate":
        assert hashes(Path(done.stdout.strip())) == hashes(source)


@pytest.mark.parametrize("command", ["locate", "cut"])
def test_a_model_larger_than_the_disk_is_refused_before_it_is_fetched(command, source, request):
    ask, hub = request.getfixturevalue(command), StubHub(REPO, source)
    hub.sizes = {SHARDS[1]: 1 << 60}
    with serve(hub):
        told = line(ask(hub))
    assert re.match(
        rf"error: {REPO} does not fit on the disk: 10737418[\d.]+ GiB are to be downloaded, and .*/hub", told
    )
    assert told.endswith(" GiB free; make room, or set HF_HOME to a folder on a larger disk")
    assert all(hub.fetched.get(name, 0) < len(hub.files[name]) for name in SHARDS)  # headers at most


def test_what_is_there_takes_no_room_and_what_is_left_over_is_named(tmp_path, monkeypatch):
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "here").write_bytes(b"1234")
    wanted = Wanted(None, {"a": ("here", 4), "b": ("absent", 1 << 30)}, tmp_path, tmp_path / "models--a--b")
    assert wanted.missing() == {"b": 1 << 30}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    check_room("a/b", wanted)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=(1 << 30) - 1))
    with pytest.raises(CheckpointError, match=r"1\.0 GiB are to be downloaded, and .* has 1\.0 GiB free; make room"):
        check_room("a/b", wanted)
    (blobs / "other.incomplete").write_bytes(b"12")
    with pytest.raises(CheckpointError, match=r"\(and 0\.0 GiB in .*incomplete, which may be deleted\)"):
        check_room("a/b", wanted)
    monkeypatch.setenv("RANK", "1")
    check_room("a/b", wanted)  # the first process looks


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (KeyboardInterrupt(), "broke off (interrupted); 0 of 2 files are whole and stay in", 130),
        (OSError(errno.ENOSPC, "No space"), "(the disk is full: make room, or set HF_HOME to a folder on a larger", 1),
        (RuntimeError("Data processing error\nmore"), "broke off (Data processing error); 0 of 2", 1),
    ],
)
def test_other_ends_of_a_download(error, words, code, tmp_path):
    wanted = Wanted(None, {"a": ("x", 1), "b": ("y", 2)}, tmp_path, tmp_path)
    with pytest.raises(CheckpointError) as told, explained("a/b", "a/b", wanted):
        raise error
    assert words in str(told.value)
    assert told.value.exit_code == code


def test_a_download_shows_how_much_has_come(tmp_path, monkeypatch):
    """Of what was missing: neither what was there, nor what another process left half."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "old.incomplete").write_bytes(bytes(3 << 20))
    told = []

    class Bar(Progress):
        def advance(self, steps=1):
            told.append(steps)

    @contextmanager
    def shown(title, total):
        assert (title, total) == ("Downloading a/b (MiB)", 10)
        yield Bar()

    monkeypatch.setattr(downloading, "progress", shown)
    monkeypatch.setattr(downloading, "_EVERY", 0.01)
    files = {"large": ("x", 6 << 20), "more": ("y", 4 << 20), "small": ("z", 9)}
    wanted = Wanted(None, files, tmp_path, tmp_path)

    def come(megabytes):
        for _ in range(6000):
            if sum(told) >= megabytes:
                return True
            time.sleep(0.01)
        return False

    with downloading.arriving("a/b", wanted, ["large", "more"]):
        (blobs / "x.1.incomplete").write_bytes(bytes(2 << 20))
        assert come(2)
        (blobs / "x.1.incomplete").unlink()
        (blobs / "x").write_bytes(bytes(6 << 20))
        assert come(6)
        (blobs / "y").write_bytes(bytes(4 << 20))
    assert sum(told) == 10
    monkeypatch.setattr(downloading, "progress", lambda *_: pytest.fail("a bar over a few bytes"))
    with downloading.arriving("a/b", wanted, ["small"]), downloading.arriving("a/b", None, []):
        pass


def test_ctrl_c_ends_a_download_at_once(tmp_path):
    """And not when all files have come, as the threads of the hub library would."""
    hub = StubHub(REPO, synthetic_checkpoint(tmp_path / "source", rows=20_000))
    hub.stalls = {SHARDS[2]}
    with serve(hub), start(hub, tmp_path / "cache", LOCATE, REPO) as running:
        assert hub.stalled.wait(300)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=300)
        hub.go_on.set()
    assert running.returncode == 130, told
    assert re.search(rf"the download of {REPO} broke off \(interrupted\); \d of \d files are whole and stay in ", told)
