"""docs/examples/ray_heal.py with two workers of Ray Train on this machine: the losses of two that accelerate starts."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import requires
from pathlib import Path

import psutil
import pytest

from tests.support.other_tools import ROOT, installed

EXAMPLE = ROOT / "docs" / "examples" / "ray_heal.py"
SETTINGS = {
    "bits": 16, "dtype": "float32", "rank": 4, "length": 64, "batch_size": 2, "accumulate": 1, "learning_rate": 1e-3,
    "dropout": 0, "eval_every": 4,
}  # fmt: skip
TOKENS = 3072  # 12 steps of 2 workers with 2 rows


@pytest.fixture(scope="module")
def ray():
    """An environment with Ray and Regrowth, which shares what Regrowth needs."""
    needs = [re.match(r"[\w.-]+", one).group() for one in requires("regrowth") if "extra ==" not in one]
    with installed("ray", "ray[train]>=2.60,<3", bare=[str(ROOT)], linked=["torch", *needs]) as made:
        yield made


@pytest.fixture(scope="module")
def job(cut_model, sample_model, sample_text, tmp_path_factory):
    """The cut, its teacher, and a short text."""
    text = tmp_path_factory.mktemp("job") / "text.jsonl"
    text.write_text("".join(sample_text.read_text().splitlines(keepends=True)[:200]))
    return [cut_model, "--teacher", sample_model, "--text", text, "--tokens", TOKENS]


@pytest.fixture(scope="module")
def launched(job, tmp_path_factory):
    """The losses of two processes that accelerate starts."""
    out = tmp_path_factory.mktemp("launched") / "adapter"
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", ROOT / "recipes/accelerate/cpu-2.yaml"]
    words += ["--main_process_port", 0, "-m", "heal", "distill", *job, "--out", out, "--device", "cpu"]
    for name, value in SETTINGS.items():
        words += [f"--{name.replace('_', '-')}", value]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return losses(out)


@pytest.fixture
def home(monkeypatch):
    """Ray's files go here: its sockets need a short path."""
    folder = tempfile.mkdtemp(prefix="ray")
    for name in ("HOME", "RAY_TMPDIR"):
        monkeypatch.setenv(name, folder)
    for name in ("PYTHONPATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def started(ray, job, out):
    words = [ray.python, EXAMPLE, *job, "--out", out, "--workers", 2, "--cpu", "--save-every", 1]
    words += [f"--set={name}={value}" for name, value in SETTINGS.items()]
    with open(f"{out}.log", "w") as log:
        return subprocess.Popen([str(word) for word in words], cwd=out.parent, stdout=log, stderr=log)


def losses(out):
    document = json.loads((out / "heal.json").read_text())
    assert document["settings"]["processes"] == 2
    return [(point["tokens"], point["loss"], point["held_out_loss"]) for point in document["curve"]]


def same(ours, theirs):
    assert len(ours) == len(theirs) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_two_workers_have_the_losses_of_two_processes(ray, job, launched, home, tmp_path, checked):
    checked(ray.version("ray"), "`heal.distill` by two workers of Ray Train: the losses of two processes of accelerate")
    assert started(ray, job, tmp_path / "adapter").wait(900) == 0, (tmp_path / "adapter.log").read_text()[-4000:]
    same(losses(tmp_path / "adapter"), launched)
    assert launched[-1][2] < launched[0][2]  # it did learn


def test_a_killed_worker_is_started_again_and_goes_on(ray, job, launched, home, tmp_path, checked):
    """Killed once a checkpoint stands; the others are ended by Ray, and both begin again at it."""
    checked(
        ray.version("ray"), "a worker is killed: Ray starts both again, healing goes on, and the losses are the same"
    )
    out = tmp_path / "adapter"
    run = started(ray, job, out)
    until = time.monotonic() + 600
    while not list(tmp_path.glob(".*/checkpoint-*")) and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    workers = [one for one in psutil.Process(run.pid).children(recursive=True) if is_worker(one)]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)
    assert run.wait(900) == 0, Path(f"{out}.log").read_text()[-4000:]
    same(losses(out), launched)
    assert json.loads((out / "heal.json").read_text())["resumed"]


def is_worker(process):
    try:
        return any("RayTrainWorker" in word for word in process.cmdline())
    except psutil.Error:
        return False
