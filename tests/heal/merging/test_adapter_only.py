"""The cut and the healing as one adapter on the full model: the same function, reloaded by stock peft."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from heal.models.quantise import load_frozen
from prune import cut, plan_cut
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError
from tests.support.commands import check_refused, run, succeed
from tests.support.healing import SMALL, changed_copy, distil_tiny, heal_small, merge_quietly, patched_copy, ship
from tests.support.models import save_tiny

IDS = torch.arange(5, 45)[None]


def healed(full, folder, text, dropped, bits=16):
    """A cut and an adapter for it; the learning rate is high, so that the adapter matters."""
    pruned = cut(plan_cut(full, layers=dropped), folder / "pruned", show_progress=False)
    return pruned, heal_small(pruned, text, folder / "adapter", tokens=384, learning_rate=3e-2, bits=bits).out


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def written(model, **options):
    asked = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "max_new_tokens": 12, "do_sample": False}
    return model.eval().generate(**asked, **options)[0].tolist()


@pytest.fixture(scope="module")
def parts(tiny_llama, tmp_path_factory, small_text):
    return healed(tiny_llama, tmp_path_factory.mktemp("parts"), small_text, "1-2,5")


def test_the_full_model_with_the_adapter_is_the_healed_one(parts, tiny_llama, tmp_path):
    pruned, adapter = parts
    document = ship(adapter, tmp_path / "only")
    wanted = PeftModel.from_pretrained(plain(pruned), adapter)
    found = PeftModel.from_pretrained(plain(tiny_llama), tmp_path / "only")
    assert (logits(found) - logits(wanted)).abs().max() < 1e-5
    assert (logits(wanted) - logits(plain(pruned))).abs().max() > 1e-2  # the adapter matters
    layers = found.base_model.model.model.layers
    assert found.config.num_hidden_layers == len(layers) == 5
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1, 2, 3, 4]
    assert written(found) == written(wanted) == written(found, use_cache=False)
    with found.disable_adapter():
        assert (logits(found) - logits(plain(pruned))).abs().max() < 1e-5
    assert document["adapter_only"]["layer_replication"] == [[0, 1], [3, 5], [6, 8]]
    assert document["adapter_only"]["agreement"]["max_abs"] < 1e-5
    assert {path.name for path in (tmp_path / "only").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "prune_plan.json", "heal.json", "README.md",
    }  # fmt: skip
    config = json.loads((tmp_path / "only" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_llama)
    assert config["bias"] == "lora_only"  # what every vLLM refuses; peft computes the same (above)
    assert not any("bias" in name for name in load_file(tmp_path / "only" / "adapter_model.safetensors"))
    assert "vLLM" in (tmp_path / "only" / "README.md").read_text()
    assert "layers: 1-2 and 5" in (tmp_path / "only" / "README.md").read_text()


@pytest.mark.parametrize("bits", [4, 8])
def test_on_the_quantised_full_model_it_is_the_trained_function(bits, tiny_llama, tmp_path, small_text):
    pruned, adapter = healed(tiny_llama, tmp_path, small_text, "2-4", bits=bits)
    document = ship(adapter, tmp_path / "only")
    wanted = PeftModel.from_pretrained(load_frozen(Source(pruned, "pruned"), bits=bits, device="cpu"), adapter)
    found = PeftModel.from_pretrained(
        load_frozen(Source(tiny_llama, "full"), bits=bits, device="cpu"), tmp_path / "only"
    )
    assert torch.equal(logits(found), logits(wanted))
    assert document["adapter_only"]["agreement"]["max_abs"] == 0
    assert f"weights in {bits} bits" in (tmp_path / "only" / "README.md").read_text()
    merge_quietly(adapter, tmp_path / "merged", base="original", compare_logits=False)
    original = PeftModel.from_pretrained(plain(tiny_llama), tmp_path / "only")  # as `--base original` merges it
    assert (logits(original) - logits(plain(tmp_path / "merged"))).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("qwen2", None),
        ("phi", None),
        ("gemma2", "changes layer_types"),
        ("gpt_neox", "does not find the layers of GPTNeoXForCausalLM"),
        ("gpt2", "does not find the layers of GPT2LMHeadModel"),
    ],
)
def test_families(family, message, tmp_path, sample_model, small_text):
    full = save_tiny(tmp_path / "full", sample_model, family)
    pruned, adapter = healed(full, tmp_path, small_text, "1")
    out = tmp_path / "only"
    if message:
        with pytest.raises(CheckpointError, match=message):
            ship(adapter, out)
        assert not out.exists()
        return
    ship(adapter, out, compare_logits=False)
    wanted = PeftModel.from_pretrained(plain(pruned), adapter)
    found = PeftModel.from_pretrained(plain(full), out)
    assert (logits(found) - logits(wanted)).abs().max() < 1e-5
    assert written(found) == written(wanted)


def test_what_an_adapter_cannot_say_is_refused(parts, tiny_llama, tmp_path):
    pruned, adapter = parts
    out = tmp_path / "out"
    other = changed_copy(tiny_llama, tmp_path / "other", "model.layers.0.mlp.up_proj")  # the cut is not from it
    with pytest.raises(CheckpointError, match=r"is not .* with layers dropped"):
        ship(adapter, out, full=other, compare_logits=False)
    with pytest.raises(CheckpointError, match="the model that was cut cannot be found .*give it with --full"):
        ship(adapter, out, full=tmp_path / "gone", compare_logits=False)
    same = shutil.copytree(tiny_llama, tmp_path / "same")  # the model that was cut, at another place
    facts = ship(adapter, tmp_path / "elsewhere", full=same, compare_logits=False)["adapter_only"]
    assert facts["full"]["model"] == str(same)
    assert str(same) in (tmp_path / "elsewhere" / "README.md").read_text()
    moved = shutil.copytree(pruned, tmp_path / "pruned")  # the same base, elsewhere, with and without its plan
    ship(adapter, tmp_path / "fine", model=moved, compare_logits=False)
    (moved / "prune_plan.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no prune_plan\.json"):
        ship(adapter, out, model=moved, compare_logits=False)
    with pytest.raises(CheckpointError, match="an adapter on the full model; merge the one"):
        merge_quietly(tmp_path / "fine", out)
    assert not out.exists()


def test_a_patched_base_is_refused_with_the_reason(tiny_llama, tmp_path, small_text):
    pruned = cut(plan_cut(tiny_llama, n=2, start=3), tmp_path / "pruned", show_progress=False)
    pruned = patched_copy(pruned, tmp_path / "patched", "model.layers.2.mlp.down_proj.weight")
    adapter = heal_small(pruned, small_text, tmp_path / "adapter", tokens=128, bits=16).out
    with pytest.raises(CheckpointError, match="it was patched or merged since it was cut"):
        ship(adapter, tmp_path / "out", compare_logits=False)
    assert not (tmp_path / "out").exists()
    merged = merge_quietly(adapter, tmp_path / "merged", compare_logits=False)
    assert [one["method"] for one in merged["earlier"]] == ["patch"]


def test_the_command(parts, tmp_path):
    _, adapter = parts
    out = tmp_path / "only"
    done = succeed("heal", "merge", adapter, "--adapter-only", "--out", out, "--json")
    assert json.loads(done.stdout) == json.loads((out / "heal.json").read_text())
    command = ["heal", "merge", adapter, "--out", tmp_path / "x"]
    for options, message in (
        (["--adapter-only", "--base", "auto"], "--base does not go with --adapter-only"),
        (["--adapter-only", "--held-out-tokens", "5k"], "--held-out-tokens is for --base auto"),
        (["--full", "x"], "--full"),
    ):
        check_refused(run(*command, *options), 2, message)
    assert not (tmp_path / "x").exists()


def test_distilled_adapters_merge_and_ship_alike(tiny_llama, tmp_path, small_text):
    pruned = cut(plan_cut(tiny_llama, n=2, start=3), tmp_path / "pruned", show_progress=False)
    settings = {**SMALL, "learning_rate": 3e-2, "targets": "after-cut"}
    adapter = distil_tiny(tiny_llama, pruned, small_text, tmp_path / "adapter", tokens=384, **settings).out
    facts = ship(adapter, tmp_path / "only")["adapter_only"]
    assert facts["agreement"]["max_abs"] == 0
    document = merge_quietly(adapter, tmp_path / "merged", base="auto", held_out_tokens=256)
    assert document["method"] == "distill"
    assert set(document["merge"]["chosen"]["losses"]) == {"dequantised", "original"}
    merged = merge_quietly(adapter, tmp_path / "dequantised", base="dequantised")["merge"]
    assert merged["agreement"]["kl"] < 1e-3
    wanted = PeftModel.from_pretrained(load_frozen(Source(pruned, "pruned"), bits=4, device="cpu"), adapter)
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "dequantised", dtype=torch.bfloat16)
    scale = logits(wanted).std()
    assert (logits(stored) - logits(wanted)).std() < 0.05 * scale
