"""The comparison with the unquantised cut that ends a healing run."""

import json

import pytest
from typer.testing import CliRunner

from heal import Settings, TextSource, merge, qlora
from heal.cli import app
from heal.models.held_out import held_out_loss
from heal.training.plan import plan_healing
from heal.training.unquantised import compare_with_cut, compared_line
from prune.common.errors import RegrowthError


@pytest.fixture(scope="module")
def text(sample_text, sample_heldout):
    return TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=128)


def healed(model, text, out, **settings):
    settings = Settings(**{"length": 64, "batch_size": 2, "accumulate": 1, "rank": 4, "dtype": "float32", **settings})
    return qlora(model, text, out, tokens=512, settings=settings, device="cpu", shown=False)


def test_the_losses_are_those_of_the_cut_and_of_what_merges(tiny_llama, text, tmp_path):
    run = healed(tiny_llama, text, tmp_path / "adapter", learning_rate=3e-2)
    facts = run.document["unquantised"]
    assert json.loads((run.out / "heal.json").read_text()) == run.document
    for base in ("original", "dequantised"):
        merge(run.out, tmp_path / base, base=base, compare_logits=False, shown=False)
    places = {"cut": tiny_llama, "original": tmp_path / "original", "dequantised": tmp_path / "dequantised"}
    how = {"length": 64, "batch_size": 2, "device": "cpu", "dtype": "float32"}
    losses = {name: held_out_loss(place, text, **how)["loss"] for name, place in places.items()}
    assert {name: facts[name] for name in losses} == pytest.approx(losses, abs=1e-4)
    assert abs(losses["original"] - losses["cut"]) > 1e-2
    assert facts["better"] == (min(facts["original"], facts["dequantised"]) < facts["cut"])


def test_without_quantisation_nothing_is_measured_again(tiny_llama, text, tmp_path, monkeypatch):
    monkeypatch.setattr("heal.training.unquantised._losses", lambda *_: pytest.fail("a model was loaded"))
    document = healed(tiny_llama, text, tmp_path / "adapter", bits=16).document
    facts, loss = document["unquantised"], document["held_out_loss"]
    assert (facts["cut"], facts["original"]) == (loss["before"], loss["after"])
    assert "dequantised" not in facts


def raises(error):
    def stand_in(*_):
        raise error

    return stand_in


def test_a_comparison_that_fails_leaves_the_adapter(tiny_llama, text, tmp_path, monkeypatch):
    monkeypatch.setattr("heal.training.unquantised._losses", raises(RegrowthError("no room\nat all")))
    run = healed(tiny_llama, text, tmp_path / "adapter")
    assert json.loads((run.out / "heal.json").read_text())["unquantised"] == {"not_compared": "no room"}
    assert (run.out / "adapter_model.safetensors").is_file()
    assert compared_line({"not_compared": "no room"}) == "not compared with the unquantised cut: no room"
    assert merge(run.out, tmp_path / "merged", compare_logits=False, shown=False)["merge"]["chosen"]["by"] == "measured"


@pytest.mark.parametrize(
    ("place", "stand_in", "why"),
    [
        ("heal.training.unquantised._losses", raises(MemoryError()), "MemoryError"),
        ("heal.training.unquantised._losses", lambda *_: (float("nan"), 1.0), "a loss is not finite"),
        ("prune.common.memory.available", lambda *_: 1000, "the unquantised cut does not fit in memory"),
        ("heal.training.unquantised.sharded", lambda: True, "the base stood in shards"),
    ],
)
def test_what_keeps_the_comparison_from_running_is_said(tiny_llama, text, tmp_path, monkeypatch, place, stand_in, why):
    plan = plan_healing(
        "qlora", tiny_llama, text, tmp_path / "adapter", tokens=512, settings=Settings(length=64, rank=4), device="cpu",
        revision=None, overwrite=False,
    )  # fmt: skip
    monkeypatch.setattr(place, stand_in)
    assert compare_with_cut(plan, None, {"held_out_loss": {"before": 2.0, "after": 1.0}}) == {"not_compared": why}


def test_healing_that_does_not_pay_is_a_warning():
    facts = {"cut": 4.5, "original": 4.6, "dequantised": 4.55, "better": False, "unit": "nats per token"}
    first, second = compared_line(facts).splitlines()
    assert first == (
        "held-out loss: unquantised cut 4.5000, healed 4.6000 on the cut's own weights, 4.5500 on the quantised ones "
        "(nats per token)"
    )
    assert second.startswith("warning: the healed model is no better than the cut; use more --tokens")
    assert "warning" not in compared_line({**facts, "original": 4.4, "better": True})


def test_the_command_says_what_it_chose_and_how_it_ended(tiny_llama, text, tmp_path):
    """With no option but a budget, and what names texts and places."""
    where = ["--text", text.source, "--held-out", text.held_out, "--held-out-tokens", "128", "--device", "cpu"]
    out = ["--tokens", "1500", "--out", str(tmp_path / "adapter"), "--rank", "4", "--eval-every", "100"]
    done = CliRunner().invoke(app, ["qlora", str(tiny_llama), *where, *out])
    assert done.exit_code == 0, done.output
    assert "5 steps of 1 row of 256 tokens; rate 0.001, reached after 1 step (--length, " in done.stderr
    assert "held-out loss: unquantised cut " in done.stderr
    document = json.loads((tmp_path / "adapter" / "heal.json").read_text())
    assert document["from_budget"] == ["length", "batch_size", "accumulate", "learning_rate", "warmup"]
    chosen = {name: document["settings"][name] for name in document["from_budget"]}
    assert chosen == {"length": 256, "batch_size": 1, "accumulate": 1, "learning_rate": 1e-3, "warmup": 1}
