"""The comparison with the unquantised cut that ends a healing run."""

import json
from dataclasses import replace
from unittest.mock import Mock

import pytest

from heal import Settings
from heal.models.held_out import held_out_loss
from heal.result import HeldOutLoss, Unquantised
from heal.text.sources import hold_out
from heal.training.plan import plan_healing
from heal.training.unquantised import compare_with_cut, compared_line
from prune.common.errors import RegrowthError
from prune.models.loading import load_tokenizer
from tests.support.commands import succeed
from tests.support.healing import SMALL, heal_small, merge_quietly, quiet


def healed(model, text, out, **settings):
    return heal_small(model, text, out, tokens=512, dtype="float32", **settings)


def test_the_losses_are_those_of_the_cut_and_of_what_merges(shallow_llama, small_text, tmp_path):
    run = healed(shallow_llama, small_text, tmp_path / "adapter", learning_rate=3e-2)
    facts = run.to_json()["unquantised"]
    assert json.loads((run.out / "heal.json").read_text()) == run.to_json()
    for base in ("original", "dequantised"):
        merge_quietly(run.out, tmp_path / base, base=base, compare_logits=False)
    places = {"cut": shallow_llama, "original": tmp_path / "original", "dequantised": tmp_path / "dequantised"}
    how = {"length": 64, "batch_size": 2, "device": "cpu", "dtype": "float32"}
    losses = {name: held_out_loss(folder, small_text, **how).loss for name, folder in places.items()}
    assert {name: facts[name] for name in losses} == pytest.approx(losses, abs=1e-4)
    assert abs(losses["original"] - losses["cut"]) > 1e-2
    assert facts["better"] == (min(facts["original"], facts["dequantised"]) < facts["cut"])


def test_without_quantisation_nothing_is_measured_again(shallow_llama, small_text, tmp_path, monkeypatch):
    monkeypatch.setattr("heal.training.unquantised._losses", lambda *_: pytest.fail("a model was loaded"))
    document = healed(shallow_llama, small_text, tmp_path / "adapter", bits=16).to_json()
    facts, loss = document["unquantised"], document["held_out_loss"]
    assert (facts["cut"], facts["original"]) == (loss["before"], loss["after"])
    assert "dequantised" not in facts


def test_a_comparison_that_fails_leaves_the_adapter(shallow_llama, small_text, tmp_path, monkeypatch):
    monkeypatch.setattr("heal.training.unquantised._losses", Mock(side_effect=RegrowthError("no room\nat all")))
    run = healed(shallow_llama, small_text, tmp_path / "adapter")
    assert json.loads((run.out / "heal.json").read_text())["unquantised"] == {"not_compared": "no room"}
    assert (run.out / "adapter_model.safetensors").is_file()
    assert compared_line(Unquantised(not_compared="no room")) == "not compared with the unquantised cut: no room"
    assert merge_quietly(run.out, tmp_path / "merged", compare_logits=False)["merge"]["chosen"]["by"] == "measured"


@pytest.mark.parametrize(
    ("name", "stand_in", "why"),
    [
        ("heal.training.unquantised._losses", Mock(side_effect=MemoryError()), "MemoryError"),
        ("heal.training.unquantised._losses", lambda *_: (float("nan"), 1.0), "a loss is not finite"),
        ("heal.training.unquantised._losses", lambda *_: None, "the unquantised cut does not fit in memory"),
        ("heal.training.unquantised.sharded", lambda: True, "the base stood in shards"),
    ],
)
def test_what_keeps_the_comparison_from_running_is_said(
    shallow_llama, small_text, tmp_path, monkeypatch, name, stand_in, why
):
    settings = Settings(length=64, rank=4)
    plan = plan_healing("qlora", shallow_llama, small_text, tmp_path / "adapter", settings, quiet(512))
    monkeypatch.setattr(name, stand_in)
    assert compare_with_cut(plan, None, HeldOutLoss(before=2.0, after=1.0)) == Unquantised(not_compared=why)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cut_that_does_not_fit_is_measured_from_its_files_to_the_same_losses(
    dtype, shallow_llama, small_text, tmp_path, monkeypatch, capsys
):
    how = {"tokens": 512, "dtype": dtype, "learning_rate": 3e-2}
    run = heal_small(shallow_llama, small_text, tmp_path / "adapter", **how)
    settings = Settings(**SMALL, dtype=dtype)
    where = quiet(512, show_progress=True, overwrite=True)
    plan = plan_healing("qlora", shallow_llama, small_text, run.out, settings, where)
    rows, whole = hold_out(small_text, load_tokenizer(plan.model), length=64), run.record.unquantised
    monkeypatch.setattr("prune.models.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    capped = replace(plan, run=replace(plan.run, max_memory=100_000))
    first = compare_with_cut(capped, rows, run.record.held_out_loss)
    monkeypatch.setattr("prune.models.walks.layer_files.available", lambda *_: 1000)
    parts = compare_with_cut(plan, rows, run.record.held_out_loss)
    assert parts == first
    assert (parts.cut, parts.original) == pytest.approx((whole.cut, whole.original), abs=1e-4)
    assert abs(parts.original - parts.cut) > 1e-2
    assert "layer by layer" in capsys.readouterr().err


def test_a_cap_has_the_sample_model_measured_from_its_files(sample_model, small_text):
    whole, parts = (held_out_loss(sample_model, small_text, length=64, max_memory=cap) for cap in (None, 300 << 20))
    assert parts.loss == pytest.approx(whole.loss, abs=1e-4)


def test_healing_that_does_not_pay_is_a_warning():
    losses = Unquantised(cut=4.5, original=4.6, dequantised=4.55, better=False)
    first, second = compared_line(losses).splitlines()
    assert first == (
        "held-out loss: unquantised cut 4.5000, healed 4.6000 on the cut's own weights, 4.5500 on the quantised ones "
        "(nats per token)"
    )
    assert second.startswith("warning: the healed model is no better than the cut; use more --tokens")
    assert "warning" not in compared_line(losses.model_copy(update={"original": 4.4, "better": True}))


def test_the_command_says_what_it_chose_and_how_it_ended(shallow_llama, small_text, tmp_path):
    """With no option but a budget, and what names texts and places."""
    where = ["--text", small_text.source, "--held-out", small_text.held_out, "--held-out-tokens", "128"]
    cheap = ["--device", "cpu", "--tokens", "1500", "--rank", "4", "--eval-every", "100"]
    done = succeed("heal", "qlora", shallow_llama, *where, *cheap, "--out", tmp_path / "adapter")
    assert "5 steps of 1 row of 256 tokens; rate 0.001, reached after 1 step (--length, " in done.stderr
    assert "held-out loss: unquantised cut " in done.stderr
    document = json.loads((tmp_path / "adapter" / "heal.json").read_text())
    assert document["from_budget"] == ["length", "batch_size", "accumulate", "learning_rate", "warmup"]
    chosen = {name: document["settings"][name] for name in document["from_budget"]}
    assert chosen == {"length": 256, "batch_size": 1, "accumulate": 1, "learning_rate": 1e-3, "warmup": 1}
