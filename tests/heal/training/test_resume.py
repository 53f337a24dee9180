"""Heals that are killed, stopped, damaged and taken up again end as one that was left alone, bit for bit."""

import json
import os
import shutil
import signal
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from heal import TextSource
from heal.models.held_out import Losses
from heal.training.checkpoints import Checkpoints
from heal.training.curve import Curve
from prune.common.errors import RegrowthError, UsageError
from prune.common.machine.stopping import Interrupted
from tests.support.checkpoints import same_weights, weights
from tests.support.healing import forked, heal_tiny
from tests.support.healing_steps import signal_in_step

STEPS = 10
SETTINGS = {"length": 32, "batch_size": 1, "dropout": 0.2, "eval_every": 4, "bits": 16}  # the commands below: 4 bits
TOKENS = STEPS * 64


def same(one, other):
    """Whether two runs ended with the same bits, by the same way."""
    curves = [json.loads((out / "heal.json").read_text())["curve"] for out in (one, other)]
    return same_weights(one, other) and curves[0] == curves[1]


def test_killed_at_any_step_it_ends_as_if_left_alone(shallow_llama, prose, tmp_path):
    options = ["--text", prose, "--tokens", TOKENS, "--length", 32, "--batch-size", 1, "--accumulate", 2, "--rank", 4]
    options += ["--learning-rate", 0.01, "--dropout", 0.2, "--eval-every", 4, "--targets", "all", "--save-every", 3]
    options += ["--held-out-tokens", 128, "--device", "cpu"]

    def job(name, at=None, number=signal.SIGKILL, where="step", resume=True):
        args = ["qlora", shallow_llama, "--out", tmp_path / name, *options, *(["--resume"] if resume else [])]
        found = {"args": [str(arg) for arg in args]}
        return found if at is None else found | {"at": at, "signal": int(number), "where": where}

    done = forked(
        job("alone", resume=False),
        job("killed", 5, resume=False),
        job("killed", 6, where="saving"),
        job("killed", 6),
        job("killed"),
        job("asked", 5, signal.SIGTERM, resume=False),
        job("asked", resume=False),
        job("asked"),
    )
    alone, *killed, end, asked, refused, asked_end = done
    for finished in (alone, end, asked_end):
        assert finished["code"] == 0, finished["stderr"]
    assert [one["code"] for one in killed] == [-signal.SIGKILL] * 3
    for name in ("killed", "asked"):
        assert same(tmp_path / "alone", tmp_path / name), name
    resumed = {
        name: json.loads((tmp_path / name / "heal.json").read_text())["resumed"] for name in os.listdir(tmp_path)
    }
    assert resumed == {"alone": [], "killed": [3, 6], "asked": [5]}
    assert asked["code"] == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 5" in asked["stderr"]
    assert "--resume" in asked["stderr"]
    assert refused["code"] == 1
    assert "stands unfinished at step 5" in refused["stderr"]
    assert sorted(os.listdir(tmp_path)) == sorted(resumed)  # no checkpoint is left


def heal_prose(model, text, out, *, tokens=TOKENS, changes=None, **run):
    return heal_tiny(model, text, out, tokens, {"save_every": 2, **run}, **{**SETTINGS, **(changes or {})})


@pytest.fixture(scope="module")
def text(prose):
    return TextSource(str(prose), held_out_tokens=128)


@pytest.fixture(scope="module")
def alone(shallow_llama, text, tmp_path_factory):
    return heal_prose(shallow_llama, text, tmp_path_factory.mktemp("alone") / "adapter").out


@pytest.fixture(scope="module")
def half_done(shallow_llama, text, tmp_path_factory):
    """A run that was stopped by a real signal in its sixth step."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        signal_in_step(6, signal.SIGINT, patch)
        with pytest.raises(Interrupted, match="stopped by SIGINT after step 6") as caught:
            heal_prose(shallow_llama, text, folder / "adapter")
    assert caught.value.exit_code == 130
    assert os.listdir(folder) == [".adapter.unfinished"]
    return folder / ".adapter.unfinished"


@pytest.fixture
def stopped(half_done, tmp_path):
    """What that run has left, to be damaged and gone on with: checkpoints of steps 4 and 6."""
    checkpoints = Checkpoints(tmp_path / "adapter")
    shutil.copytree(half_done, checkpoints.folder)
    assert checkpoints.steps() == [6, 4]
    return checkpoints


def test_only_the_adapter_is_saved(stopped):
    files = {path.name: path.stat().st_size for path in stopped.path(6).iterdir()}
    assert "adapter_model.safetensors" in files
    assert not {"model.safetensors", "pytorch_model.bin"} & set(files)
    assert files["optimizer.pt"] < 3 * files["adapter_model.safetensors"]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt", "rows-0.json.gz", "sums.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(file, stopped, shallow_llama, text, alone, capsys):
    path = stopped.path(6) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    said = []
    assert stopped.newest(said.append) == stopped.path(4)
    assert "checkpoint of step 6 is damaged" in said[0]
    if file == "rows-0.json.gz":  # one of them to the end
        out = stopped.folder.parent / "adapter"
        result = heal_prose(shallow_llama, text, out, resume=True)
        assert result.to_json()["resumed"] == [4]
        assert same(alone, out)


def test_with_all_checkpoints_damaged_it_begins_anew(stopped, shallow_llama, text, alone, capsys):
    for step in (6, 4):
        (stopped.path(step) / "optimizer.pt").unlink()
    out = stopped.folder.parent / "adapter"
    assert heal_prose(shallow_llama, text, out, resume=True, show_progress=True).to_json()["resumed"] == []
    assert "no checkpoint to go on from: beginning with the first step" in capsys.readouterr().err
    assert same(alone, out)


@pytest.mark.parametrize(
    ("changes", "tokens", "message"),
    [
        ({"learning_rate": 2e-2}, TOKENS, "--learning-rate was 0.01 and is now 0.02"),
        ({"seed": 5}, TOKENS, "--seed was 0 and is now 5"),
        ({}, 2 * TOKENS, "--tokens, in steps, was 10 and is now 20"),
    ],
)
def test_another_run_is_not_gone_on_with(changes, tokens, message, stopped, shallow_llama, text, capsys):
    out = stopped.folder.parent / "adapter"
    with pytest.raises(UsageError, match=f"--resume: {message}"):
        heal_prose(shallow_llama, text, out, resume=True, tokens=tokens, changes=changes, show_progress=True)
    assert "steps of" not in capsys.readouterr().err  # the plan of a run that will not be
    assert stopped.steps() == [6, 4]  # and is still there


def test_other_text_is_not_gone_on_with(stopped, shallow_llama, text, prose, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_bytes(prose.read_bytes() + b'{"text": "one more"}\n')
    with pytest.raises(UsageError, match=r"--resume: --text \(sha256\) was"):
        heal_prose(shallow_llama, TextSource(str(other), held_out_tokens=128), tmp_path / "adapter", resume=True)
    prose_now = prose.read_bytes()
    try:
        prose.write_bytes(prose_now + b'{"text": "one more"}\n')
        with pytest.raises(UsageError, match=r"--resume: --text \(sha256\) was"):
            heal_prose(shallow_llama, text, tmp_path / "adapter", resume=True)
    finally:
        prose.write_bytes(prose_now)


def test_what_a_run_reads_may_stand_elsewhere(stopped, shallow_llama, prose, alone, tmp_path):
    """Text and model are known by their hashes, not by their paths."""
    model, moved = tmp_path / "model", tmp_path / "moved" / ".." / prose.name
    (tmp_path / "moved").mkdir()
    shutil.copy(prose, moved)
    shutil.copytree(shallow_llama, model)
    measured = TextSource(str(moved), held_out_tokens=128, domains=(("more", str(prose)),))
    with pytest.raises(UsageError, match=r"--resume: --domain-text \(more.field\) was not there and is now"):
        heal_prose(model, measured, tmp_path / "adapter", resume=True)
    heal_prose(model, TextSource(str(moved), held_out_tokens=128), tmp_path / "adapter", resume=True)
    assert same(alone, tmp_path / "adapter")


def test_the_time_of_training_is_that_of_steps_alone(shallow_llama, text, tmp_path, monkeypatch):
    """By a clock that only passes and checkpoints turn: a pass takes 1 s, the first 50 s more, a checkpoint 100 s.

    What the first step takes to start up is no part of the speed.
    """
    import heal.training.loop
    import heal.training.state

    now = [0.0]
    backward, write = Accelerator.backward, heal.training.state.write_state

    def passed(self, loss, **named):
        now[0] += 1 if now[0] else 51
        backward(self, loss, **named)

    def write_state(*arguments):
        now[0] += 100
        write(*arguments)

    monkeypatch.setattr(heal.training.loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Accelerator, "backward", passed)
    monkeypatch.setattr(heal.training.state, "write_state", write_state)
    document = heal_prose(shallow_llama, text, tmp_path / "adapter", save_every=3).to_json()
    assert now[0] == 2 * STEPS + 50 + 300
    assert document["training_seconds"] == 2 * STEPS + 50
    assert document["tokens_per_second"] == 64 / 2


def test_a_disk_that_is_full_at_a_checkpoint_is_one_line(shallow_llama, text, tmp_path, monkeypatch):
    full = SafetensorError("I/O error: File too large")
    monkeypatch.setattr("heal.models.adapters._save", Mock(side_effect=full))
    with pytest.raises(RegrowthError, match=r"adapter cannot be written to .*File too large.*is there room"):
        heal_prose(shallow_llama, text, tmp_path / "adapter")

    monkeypatch.undo()
    torn = RuntimeError("PytorchStreamWriter failed writing file data/0")
    monkeypatch.setattr(torch, "save", Mock(side_effect=torn))
    with pytest.raises(RegrowthError, match=r"checkpoint of step 2 cannot be written to .*failed writing"):
        heal_prose(shallow_llama, text, tmp_path / "adapter")


def test_a_checkpoint_is_good_where_the_loss_was():
    curve = Curve()
    for step, loss in ((0, 2.0), (4, 1.5), (8, 9.0)):
        curve.add(step, step, Losses(loss, {}))
    assert [curve.sane(step) for step in (2, 4, 7, 8, 9)] == [True, True, True, False, False]


def test_a_run_of_another_version_is_not_gone_on_with(stopped, shallow_llama, text):
    run = stopped.folder / "run.json"
    run.write_text(run.read_text().replace("regrowth.unfinished/3", "regrowth.unfinished/1"))
    with pytest.raises(RegrowthError, match=r"begun by another version .*unfinished/1.*; begin anew with --overwrite$"):
        heal_prose(shallow_llama, text, stopped.folder.parent / "adapter", resume=True)
    assert stopped.steps() == [6, 4]


def test_two_runs_cannot_write_one_adapter(shallow_llama, text, tmp_path):
    with Checkpoints(tmp_path / "adapter").open(), pytest.raises(RegrowthError, match="another run is healing"):
        heal_prose(shallow_llama, text, tmp_path / "adapter")


def test_a_run_that_diverges_names_its_last_checkpoint(shallow_llama, text, tmp_path):
    with pytest.raises(RegrowthError, match="training has diverged") as caught:
        heal_prose(shallow_llama, text, tmp_path / "adapter", changes={"learning_rate": 1e30}, save_every=1)
    found = Checkpoints(tmp_path / "adapter")
    step = found.steps()[0]
    assert "begin anew with a lower --learning-rate (and --overwrite)" in str(caught.value)
    assert f"the last good checkpoint, of step {step}, is kept in {found.path(step)}" in str(caught.value)
    assert f"at step {step + 1}:" in str(caught.value)
    assert all(tensor.isfinite().all() for tensor in weights(found.path(step)).values())
    assert not (tmp_path / "adapter").exists()
