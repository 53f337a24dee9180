"""Tensors of any kind are bytes: quantised containers, 8-bit floats and sub-byte types."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune.checkpoint.headers import BITS, read_shard
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.cutting.verify import verify_cut
from tests.support.checkpoints import write_shard
from tests.support.commands import succeed
from tests.support.models import tiny


def test_a_bitsandbytes_model_is_cut_as_it_is(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny(layers=8).save_pretrained(tmp_path / "plain")  # its rows are quantised in blocks of 64, the width
    kind = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=kind, dtype=torch.float32)
    model.save_pretrained(tmp_path / "nf4")
    del model
    names = load_file(tmp_path / "nf4" / "model.safetensors")
    assert any(name.endswith("quant_state.bitsandbytes__nf4") for name in names)
    out = cut(plan_cut(tmp_path / "nf4", layers="2,4-5"), tmp_path / "out", show_progress=False)
    found = verify_cut(tmp_path / "nf4", out, logits=True, show_progress=False)
    assert found.faults == ()
    assert found.logits <= 1e-5
    succeed("prune", "inspect", out)


def packed(kind: str, layer: int, generator) -> list:
    """One layer's tensors as GPTQ, AWQ and 8-bit float checkpoints name them: (name, dtype, shape, bytes)."""
    stem = f"model.layers.{layer}.mlp.up_proj."
    shapes = {
        "gptq": {
            "qweight": ("I32", (4, 16)),
            "qzeros": ("I32", (1, 2)),
            "scales": ("F16", (1, 16)),
            "g_idx": ("I32", (32,)),
        },
        "awq": {"qweight": ("I32", (32, 2)), "qzeros": ("I32", (1, 2)), "scales": ("F16", (1, 16))},
        "fp8": {"weight": ("F8_E4M3", (16, 33)), "weight_scale_inv": ("F32", (1, 1)), "input_scale": ("F8_E5M2", (3,))},
        "mxfp4": {"weight": ("F4", (16, 32)), "scales": ("F8_E8M0", (16,)), "bias": ("F6_E2M3", (4,))},
    }[kind]
    found = []
    for name, (dtype, shape) in shapes.items():
        size = BITS[dtype] * torch.Size(shape).numel() // 8
        found.append((stem + name, dtype, shape, bytes(torch.randint(256, (size,), generator=generator).tolist())))
    return found


@pytest.mark.parametrize("kind", ["gptq", "awq", "fp8", "mxfp4"])
def test_packed_tensors_keep_their_bits_under_new_names(kind, tmp_path):
    generator = torch.Generator().manual_seed(0)
    layers = [packed(kind, layer, generator) for layer in range(6)]
    source = tmp_path / "source"
    source.mkdir()
    write_shard(source / "model.safetensors", [tensor for layer in layers for tensor in layer])
    method = {"quant_method": kind, "modules_to_not_convert": ["model.layers.5.mlp"]}
    config = {"model_type": "llama", "num_hidden_layers": 6, "quantization_config": method}
    (source / "config.json").write_text(json.dumps(config))
    out = cut(plan_cut(source, layers="1,3"), tmp_path / "out", show_progress=False)
    shard = read_shard(out / "model.safetensors")
    content = shard.path.read_bytes()[shard.data_start :]
    found = {t.name: (t.dtype, t.shape, content[t.start : t.end]) for t in shard.tensors}
    wanted = {
        name.replace(f"layers.{layer}.", f"layers.{place}."): (dtype, shape, data)
        for place, layer in enumerate((0, 2, 4, 5))
        for name, dtype, shape, data in layers[layer]
    }
    assert found == wanted
    renumbered = json.loads((out / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
    assert renumbered == ["model.layers.3.mlp"]
    plan = json.loads((out / "prune_plan.json").read_text())
    assert plan["before"]["parameters"] is None  # packed values are no count of parameters


def test_an_adapter_beside_the_weights_stays_behind_and_the_card_says_so(tiny_llama, tmp_path):
    source = shutil.copytree(tiny_llama, tmp_path / "source")
    (source / "adapter_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, source / "adapter_model.safetensors")
    result = succeed("prune", "cut", source, "--layers", "3", "--out", tmp_path / "out")
    assert "Left behind: the adapter" in result.stderr
    assert "Left behind: adapter_config.json, adapter_model.safetensors" in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out").glob("adapter*"))
    assert verify_cut(source, tmp_path / "out", show_progress=False).sound
    succeed("prune", "cut", tiny_llama, "--layers", "3", "--out", tmp_path / "plain")
    assert "Left behind" not in (tmp_path / "plain" / "README.md").read_text()
