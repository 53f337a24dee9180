"""Healing for real: NF4 on whatever device there is, text, seeds, and what a failed run leaves (nothing)."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from heal import TextSource, held_out_loss
from heal.text.sources import hold_out, is_held_out, row_stream
from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError, TextError, UsageError
from prune.common.sizes import parse_tokens
from prune.models.loading import load_tokenizer
from tests.support.checkpoints import same_weights, weights
from tests.support.healing import heal_tiny, merge_quietly
from tests.support.texts import write_jsonl

STEPS = 4
TOKENS = STEPS * 256


@pytest.fixture(scope="module")
def healed(shallow_llama, text, tmp_path_factory):
    return heal_tiny(shallow_llama, text, tmp_path_factory.mktemp("healed") / "adapter", tokens=TOKENS)


def test_the_adapter_folder(healed, shallow_llama):
    names = {path.name for path in healed.out.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "heal.json", "README.md"}
    assert [path.name for path in healed.out.parent.iterdir()] == ["adapter"]
    document = json.loads((healed.out / "heal.json").read_text())
    assert document == healed.to_json()
    assert document["format"] == "regrowth.heal/2"
    assert document["tokens"] == TOKENS
    steps = [point["step"] for point in document["curve"]]
    assert steps == list(range(STEPS + 1))
    assert [point["tokens"] for point in document["curve"]] == [256 * step for step in steps]
    assert all(math.isfinite(point["held_out_loss"]) for point in document["curve"])
    assert document["held_out_loss"]["before"] == document["curve"][0]["held_out_loss"]
    assert document["held_out_loss"]["after"] == document["curve"][-1]["held_out_loss"]
    assert document["tokens_per_second"] > 0
    assert document["peak_memory"]["resident_bytes"] > 1 << 27
    assert len(document["quantised"]) == 2 * 7  # attention too, but not the head
    assert len(document["adapted"]) == 2 * 7
    assert len({path.stat().st_mode for path in healed.out.iterdir()}) == 1  # all as the umask has it
    config = json.loads((healed.out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(shallow_llama)
    assert config["r"] == config["lora_alpha"] == 4
    assert config["lora_dropout"] == 0.05
    card = (healed.out / "README.md").read_text()
    assert f"{healed.before:.4f}" in card
    assert f"{healed.after:.4f}" in card


def test_it_learns_and_loads_in_stock_peft(healed):
    from peft import AutoPeftModelForCausalLM

    assert healed.after < healed.before - 0.002  # a random model has little to win back; the sample model below has
    assert all(tensor.abs().max() > 0 for name, tensor in weights(healed.out).items() if "lora_B" in name)
    model = AutoPeftModelForCausalLM.from_pretrained(healed.out)
    assert model(input_ids=torch.arange(5, 20)[None]).logits.isfinite().all()


def test_adapters_in_bfloat16_are_healed_and_saved_in_float32(healed, shallow_llama, text, tmp_path):
    narrow = heal_tiny(shallow_llama, text, tmp_path / "narrow", tokens=TOKENS, adapter_compute="bfloat16")
    assert healed.to_json()["settings"]["adapter_compute"] == "float32"  # what `auto` is on a CPU
    assert narrow.to_json()["settings"]["adapter_compute"] == "bfloat16"
    assert {weight.dtype for weight in weights(narrow.out).values()} == {torch.float32}
    assert not same_weights(healed.out, narrow.out)
    assert narrow.before == healed.before
    assert narrow.after == pytest.approx(healed.after, abs=0.1 * (healed.before - healed.after))


def test_same_seed_same_adapter(healed, shallow_llama, text, tmp_path):
    again = heal_tiny(shallow_llama, text, tmp_path / "again", tokens=TOKENS)
    other = heal_tiny(shallow_llama, text, tmp_path / "other", tokens=256, seed=1)
    assert same_weights(healed.out, again.out)
    assert [p["loss"] for p in again.to_json()["curve"]] == [p["loss"] for p in healed.to_json()["curve"]]
    assert not same_weights(healed.out, other.out)
    assert other.before == healed.before  # what is held out is no matter of the seed


def test_checkpointing_runs_each_layer_twice_and_changes_no_result(shallow_llama, text, tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward, calls, adapters = LlamaMLP.forward, [], []

    def counted(self, states):
        calls.append(self.training)
        return forward(self, states)

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    passes = 2 * 2 * 2  # steps, of so many forward passes, through so many layers
    for checkpointing in (True, False):
        calls.clear()
        run = heal_tiny(shallow_llama, text, tmp_path / str(checkpointing), tokens=512, checkpointing=checkpointing)
        assert sum(calls) == passes * (2 if checkpointing else 1)
        adapters.append(weights(run.out))
    assert all(torch.allclose(adapters[0][name], adapters[1][name], atol=2e-3) for name in adapters[0])


def test_a_step_is_one_mean_over_its_tokens_however_it_is_cut(shallow_llama, text, tmp_path, monkeypatch):
    """Rows of unequal counts of labels: a mean of the means of forward passes would be another one."""
    import heal.training.loop

    def uneven(rows):
        firsts = [int(row.tokens.sum()) % 60 for row in rows]
        bare = [np.where(np.arange(len(row.labels)) < n, -100, row.labels) for row, n in zip(rows, firsts, strict=True)]
        return collate([replace(row, labels=labels) for row, labels in zip(rows, bare, strict=True)])

    collate = heal.training.loop.collate_for_loss
    monkeypatch.setattr(heal.training.loop, "collate_for_loss", uneven)
    how = {"bits": 16, "dtype": "float32", "dropout": 0.0, "tokens": 512}
    whole = heal_tiny(shallow_llama, text, tmp_path / "whole", batch_size=4, accumulate=1, **how)
    parts = heal_tiny(shallow_llama, text, tmp_path / "parts", batch_size=1, accumulate=4, **how)
    document = whole.to_json()
    assert (document["method"], document["settings"]["dtype"], document["quantised"]) == ("lora", "float32", [])
    losses = [[p["loss"] for p in run.to_json()["curve"][1:]] for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    first, second = weights(whole.out), weights(parts.out)
    assert all(torch.allclose(first[name], second[name], atol=1e-3) for name in first)


def test_held_out_text_never_moves_and_is_never_trained_on(shallow_llama, tmp_path):
    tokenizer = load_tokenizer(Source(shallow_llama, "tiny"))
    texts = [f"Document number {i} tells that {i} times seven is {7 * i}, and little else." for i in range(600)]
    path = tmp_path / "text.jsonl"
    write_jsonl(path, ({"text": text} for text in texts))
    kept_apart = {text for text in texts if is_held_out(text)}
    assert 2 <= len(kept_apart) <= 30
    source = TextSource(str(path), held_out_tokens=128)
    held_out = hold_out(source, tokenizer, length=32)
    assert [row.tokens.tolist() for row in hold_out(source, tokenizer, length=32).rows] == [
        row.tokens.tolist() for row in held_out.rows
    ]
    words = []
    for seed in (0, 1):
        rows = row_stream(source, tokenizer, held_out, length=32, seed=seed).take(300)
        words.append(tokenizer.decode(np.concatenate([row.tokens for row in rows])))
        trained = {text for text in texts if f"number {text.split()[2]} tells" in words[-1]}
        assert len(trained) > 200
        assert not trained & kept_apart
    assert words[0] != words[1]


def test_budgets():
    assert [parse_tokens(written) for written in ("60k", "2M", "1.5m", "164_000")] == [60_000, 2e6, 1.5e6, 164_000]
    for written in ("", "0", "-5", "2 M tokens", "many", "k", "1e6", "9" * 400):
        with pytest.raises(UsageError, match="is not a number of tokens"):
            parse_tokens(written)


@pytest.mark.parametrize(
    ("changes", "tokens", "error", "message"),
    [
        ({}, "100M", TextError, "ends after [0-9]+ of the 100000000 tokens asked for"),
        ({"learning_rate": -1.0}, "1k", UsageError, "--learning-rate"),
        ({"learning_rate": float("nan")}, "1k", UsageError, "--learning-rate nan"),
        ({"learning_rate": 1e30}, "2k", RegrowthError, "loss is nan at step [2-7]: training has diverged"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(shallow_llama, prose, tmp_path, changes, tokens, error, message):
    text = TextSource(str(prose), held_out_tokens=128)
    with pytest.raises(error, match=message):
        heal_tiny(shallow_llama, text, tmp_path / "out", tokens=tokens, **changes)
    assert list(tmp_path.iterdir()) == []


def test_the_sample_model_heals(sample_model, text, tmp_path):
    """Twelve of thirty layers cut, a thousand tokens of prose: the adapter, and the merged checkpoint, are better."""
    from prune import cut, plan_cut

    pruned = cut(plan_cut(sample_model, n=12, start=12), tmp_path / "pruned", show_progress=False)
    few = replace(text, held_out_tokens=256)
    shape = {"length": 128, "accumulate": 1, "rank": 16, "learning_rate": 2e-3, "eval_every": 100}
    result = heal_tiny(pruned, few, tmp_path / "adapter", tokens=1024, checkpointing=False, **shape)
    assert result.after < 0.95 * result.before
    merge_quietly(result.out, tmp_path / "healed", base="dequantised", compare_logits=False)
    assert (tmp_path / "healed" / "prune_plan.json").read_bytes() == (pruned / "prune_plan.json").read_bytes()
    merged = held_out_loss(tmp_path / "healed", few, length=128, device="cpu", dtype=result.record.computed_in)
    assert merged.loss == pytest.approx(result.after, rel=0.01)  # bfloat16
