"""What a heal does on its way: text that ends, patience, schedules, several texts, reports; and what it tells."""

import json
import math
import sys

import pytest
import torch
from accelerate.utils import LoggerType

from heal import TextSource
from heal.defaults import Step
from heal.models.held_out import Losses
from heal.training.curve import Curve
from heal.training.schedule import plan_steps
from prune.common.errors import TextError, UsageError
from tests.support.checkpoints import weights
from tests.support.commands import succeed
from tests.support.healing import heal_tiny
from tests.support.texts import sentences, write_jsonl


def write(folder, name, count, seed=0):
    path = folder / f"{name}.jsonl"
    write_jsonl(path, ({"text": f"{name} {text}"} for text in sentences(count, seed)))
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    return {name: str(write(folder, name, 400, seed)) for seed, name in enumerate(["news", "notes", "medicine"])}


def heal(model, text, out, tokens=640, run=None, **settings):
    return heal_tiny(model, text, out, tokens, run, **{"length": 32, "batch_size": 1, **settings})


def test_a_stream_that_ends_leaves_what_was_learnt(shallow_llama, texts, tmp_path):
    (tmp_path / "short").mkdir()
    write(tmp_path / "short", "part", 20)
    text = TextSource(f"hub:{tmp_path / 'short'}", held_out=texts["news"], held_out_tokens=128)
    result = heal(shallow_llama, text, tmp_path / "adapter", tokens=64_000)
    document = result.to_json()
    assert document["ended"]["by"] == "text"
    assert document["ended"]["texts"] == [text.source]
    steps = document["ended"]["step"]
    assert 5 < steps < 100
    assert document["settings"]["steps"] == 1000
    assert document["tokens"] == 64 * steps
    assert document["curve"][-1]["step"] == steps  # measured where it ended
    assert math.isfinite(result.after)
    assert weights(result.out)
    with pytest.raises(TextError, match="ends before the first step of 65536 tokens"):
        heal(shallow_llama, text, tmp_path / "none", tokens=640_000, accumulate=2048)
    assert {path.name for path in tmp_path.iterdir()} == {"short", "adapter"}


def test_patience_ends_the_run_and_keeps_the_best_adapter(shallow_llama, texts, tmp_path):
    """Trained on one kind of text at a rate that is too high, the loss on another soon rises."""
    from heal.models.adapters import add_adapter, load_adapter
    from heal.models.held_out import held_out_losses
    from heal.models.quantise import load_frozen
    from heal.models.targets import find_targets
    from heal.text.sources import hold_out
    from prune.checkpoint.source import Source
    from prune.models.loading import load_tokenizer

    text = TextSource(texts["news"], held_out=texts["notes"], held_out_tokens=256)
    changes = {"learning_rate": 0.3, "eval_every": 1, "patience": 2, "dropout": 0.0}
    document = heal(shallow_llama, text, tmp_path / "adapter", tokens=64 * 60, **changes).to_json()
    ended, losses = document["ended"], [point["held_out_loss"] for point in document["curve"]]
    assert ended["by"] == "patience"
    assert ended["step"] == ended["kept_step"] + 2 < 60
    assert document["held_out_loss"]["after"] == losses[ended["kept_step"]] == min(losses)
    source = Source(shallow_llama, "tiny")
    base = load_frozen(source, bits=4, device="cpu")
    adapted = add_adapter(base, find_targets(base, "all"), rank=4, alpha=4, dropout=0.0, base="x")
    load_adapter(adapted, tmp_path / "adapter")
    found = held_out_losses(base, hold_out(text, load_tokenizer(source), length=32), batch_size=1)
    assert found.loss == pytest.approx(min(losses), abs=1e-6)


def test_every_text_is_measured_by_its_name(shallow_llama, texts, tmp_path):
    options = ["--text", texts["news"], "--text", texts["notes"], "--domain-text", f"medical={texts['medicine']}"]
    options += ["--held-out-tokens", "200", "--tokens", "320", "--length", "32", "--batch-size", "1", "--rank", "4"]
    options += ["--accumulate", "2", "--schedule", "linear", "--warmup", "20%", "--eval-every", "2", "--device", "cpu"]
    done = succeed("heal", "qlora", shallow_llama, *options, "--out", tmp_path / "adapter", "--json")
    document = json.loads(done.stdout)
    assert [point["step"] for point in document["curve"]] == [0, 2, 4, 5]
    texts_told = document["held_out"]["texts"]
    assert [(one["name"], one["domain"]) for one in texts_told] == [
        ("news", False),
        ("notes", False),
        ("medical", True),
    ]
    for point in document["curve"]:
        assert point["texts"].keys() == {"news", "notes", "medical"}
        main = sum(point["texts"][one["name"]] * one["tokens"] for one in texts_told[:2])
        assert point["held_out_loss"] == pytest.approx(main / sum(one["tokens"] for one in texts_told[:2]))
    assert document["settings"]["schedule"] == "linear"
    assert document["settings"]["warmup"] == 1
    assert document["ended"] == {"by": "budget", "step": 5, "kept_step": 5, "texts": []}
    assert [one["source"] for one in document["provenance"]["text"]] == [texts["news"], texts["notes"]]
    assert texts["notes"] in (tmp_path / "adapter" / "README.md").read_text()


def test_a_reporter_that_is_not_installed(shallow_llama, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if "site-packages" not in entry])
    with pytest.raises(
        UsageError, match="--report-to trackio needs a package that is not installed: pip install trackio"
    ):
        heal(shallow_llama, texts["news"], tmp_path / "adapter", run={"report_to": "trackio"})


def test_tensorboard_gets_the_curve(shallow_llama, texts, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = TextSource(texts["news"], held_out_tokens=128)
    document = heal(shallow_llama, text, tmp_path / "adapter", run={"report_to": "tensorboard"}).to_json()
    events = EventAccumulator(str(tmp_path / "adapter" / "tensorboard"))
    events.Reload()
    told = [event.value for event in events.Scalars("eval/loss")]
    assert told == pytest.approx([point["held_out_loss"] for point in document["curve"]], abs=1e-5)


WANDB = """
import json, os
from pathlib import Path

def note(**what):
    with open(os.environ["NOTED"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Run:
    def log(self, values, step=None, **_):
        note(values=values, step=step)

    def finish(self):
        note(finished=True)

class Config:
    def update(self, values, **_):
        note(config=values)

config = Config()

def init(project, name, dir):
    Path(dir, "run.wandb").write_text("its own file")
    note(project=project, name=name)
    return Run()
"""


def test_wandb_gets_every_step(shallow_llama, texts, tmp_path, monkeypatch):
    """By a stand-in for the package, which need not be installed."""
    package, noted = tmp_path / "packages" / "wandb", tmp_path / "noted"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WANDB)
    information = tmp_path / "packages" / "wandb-0.20.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: wandb\nVersion: 0.20.0\n")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("NOTED", str(noted))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.WANDB])  # looked up at its import
    text = TextSource(texts["news"], held_out=(texts["news"], texts["notes"]), held_out_tokens=128)
    run = {"report_to": "wandb", "save_every": 100}
    document = heal(shallow_llama, text, tmp_path / "adapter", tokens=4 * 64, run=run, eval_every=2).to_json()
    told = [json.loads(line) for line in noted.read_text().splitlines()]
    assert told[0] == {"project": "regrowth", "name": "adapter"}
    assert told[1]["config"]["learning_rate"] == 1e-2
    assert told[1]["config"]["tokens_per_step"] == 64
    assert told[-1] == {"finished": True}
    steps = {one["step"]: one["values"] for one in told[2:-1] if "train/loss" in one["values"]}
    points = {one["step"]: one["values"] for one in told[2:-1] if "eval/loss" in one["values"]}
    assert sorted(steps) == [1, 2, 3, 4]
    assert all(values["train/grad_norm"] > 0 for values in steps.values())
    assert steps[4]["train/learning_rate"] < steps[2]["train/learning_rate"] <= 1e-2
    assert (steps[3]["train/loss"] + steps[4]["train/loss"]) / 2 == pytest.approx(document["curve"][2]["loss"])
    assert {step: values["eval/loss"] for step, values in points.items()} == {
        point["step"]: point["held_out_loss"] for point in document["curve"]
    }
    assert points[0]["eval/loss_notes"] == document["curve"][0]["texts"]["notes"]
    assert (tmp_path / "adapter" / "wandb" / "run.wandb").read_text() == "its own file"


@pytest.mark.parametrize(("warmup", "steps"), [(None, 9), ("12", 12), ("0", 0), ("10%", 30), ("2.5 %", 8)])
def test_warm_up(warmup, steps):
    assert plan_steps(300 * 64, Step(64, 1, 1, 1e-3), warmup=warmup).warmup == steps


def test_a_curve_knows_its_best_point():
    curve = Curve()
    for step, loss in enumerate([3.0, 2.5, 2.7, 2.5, 2.6]):
        curve.since = [] if step == 0 else [loss + 1, loss + 2]
        curve.add(step, 10 * step, Losses(loss, {"a": loss}))
    assert (curve.best.step, curve.stale()) == (1, 3)
    assert curve.points[0].loss is None
    assert curve.points[2].loss == pytest.approx(4.2)
    assert Curve.from_json(json.loads(json.dumps(curve.to_json()))) == curve


def test_rates_fall_as_asked(shallow_llama, texts, tmp_path):
    """The same first step; then a constant rate moves the adapter furthest."""
    text = TextSource(texts["news"], held_out_tokens=128)
    moved = {}
    how = {"warmup": "0", "dropout": 0.0, "bits": 16}
    for schedule in ("cosine", "constant"):
        out = heal(shallow_llama, text, tmp_path / schedule, schedule=schedule, **how).out
        changes = [tensor.norm() for name, tensor in weights(out).items() if "lora_B" in name]
        moved[schedule] = torch.stack(changes).norm().item()
    assert moved["constant"] > 1.2 * moved["cosine"]
