"""Tensors of any kind are bytes: quantised containers, 8-bit floats and sub-byte types; pickles only by name."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic import hashes, write_shard
from typer.testing import CliRunner

from prune.checkpoint import BITS, read_shard
from prune.cli import app
from prune.planning import plan_cut
from prune.surgery import cut
from prune.verification import verify_cut


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(result) -> str:
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


# --- quantised -----------------------------------------------------------------------------------------------------


def test_a_bitsandbytes_model_is_cut_as_it_is(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,  # rows are quantised in blocks of 64
        intermediate_size=128,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "plain")
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
    assert run("inspect", out).exit_code == 0


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


# --- beside the weights --------------------------------------------------------------------------------------------


def test_an_adapter_beside_the_weights_stays_behind_and_the_card_says_so(tiny_llama, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in tiny_llama.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "adapter_config.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, source / "adapter_model.safetensors")
    result = run("cut", source, "--layers", "3", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Left behind: the adapter" in result.stderr
    assert "Left behind: adapter_config.json, adapter_model.safetensors" in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out").glob("adapter*"))
    assert verify_cut(source, tmp_path / "out", show_progress=False).sound
    assert run("cut", tiny_llama, "--layers", "3", "--out", tmp_path / "plain").exit_code == 0
    assert "Left behind" not in (tmp_path / "plain" / "README.md").read_text()


# --- pickles -------------------------------------------------------------------------------------------------------


def as_pickles(source: Path, folder: Path, shards: int, *, tied: bool = True, zipped: bool = True) -> Path:
    """The model in `source` as .bin files."""
    folder.mkdir()
    for path in source.iterdir():
        if not path.name.startswith("model"):
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    if tied:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        return folder
    names, weight_map = list(tensors), {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        part = {name: tensors[name] for name in names[number::shards]}
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(("shards", "zipped"), [(1, True), (1, False), (3, True)])
def test_pickles_are_refused_unless_asked_for_and_then_become_safetensors(tiny_llama, tmp_path, shards, zipped):
    source = as_pickles(tiny_llama, tmp_path / "bin", shards, zipped=zipped, tied=shards == 1)
    before = hashes(source)
    refusal = error_of(run("cut", source, "--layers", "2,5", "--out", tmp_path / "out"))
    assert "--allow-pickle" in refusal
    assert "save_pretrained" in refusal
    assert not (tmp_path / "out").exists()

    result = run("cut", source, "--layers", "2,5", "--out", tmp_path / "out", "--allow-pickle")
    assert result.exit_code == 0, result.output
    assert hashes(source) == before
    assert not list((tmp_path / "out").glob("*.bin*"))
    plain = cut(plan_cut(tiny_llama, layers="2,5"), tmp_path / "plain", show_progress=False)
    found = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        found |= load_file(path)
    wanted = load_file(plain / "model.safetensors")
    assert set(found) == set(wanted)  # the tied head is no second copy
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())

    from transformers import AutoModelForCausalLM

    ids = torch.arange(12)[None]
    with torch.no_grad():
        one, other = (AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (tmp_path / "out", plain))
    assert torch.equal(one, other)


def test_shared_and_strided_tensors_of_a_pickle_become_plain_ones(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    whole = torch.arange(48, dtype=torch.float32).reshape(6, 8)
    tensors = {
        "model.embed_tokens.weight": whole,
        "lm_head.weight": whole,
        "model.layers.0.a.weight": whole[1:3],
        "model.layers.1.a.weight": whole.t(),
        "model.layers.2.a.weight": torch.zeros(0, 4, dtype=torch.float8_e4m3fn),
    }
    torch.save(tensors, source / "pytorch_model.bin")
    config = {"model_type": "llama", "num_hidden_layers": 3, "tie_word_embeddings": False}
    (source / "config.json").write_text(json.dumps(config))
    plan = plan_cut(source, layers="0", allow_pickle=True)
    found = load_file(cut(plan, tmp_path / "out", allow_pickle=True, show_progress=False) / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], whole)  # not tied by the config, so a tensor of its own
    assert torch.equal(found["model.layers.0.a.weight"], whole.t())
    assert found["model.layers.1.a.weight"].shape == (0, 4)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


@pytest.mark.parametrize("content", ["code", "noise", "cut short", "a list", "a number", "shard elsewhere"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tiny_llama, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    source = as_pickles(tiny_llama, tmp_path / "bin", 3 if content == "shard elsewhere" else 1)
    path = source / "pytorch_model.bin"
    if content == "code":
        path.write_bytes(pickle.dumps({"model.layers.0.x": Evil()}))
    elif content == "noise":
        path.write_bytes(bytes(range(256)) * 40)
    elif content == "cut short":
        path.write_bytes(path.read_bytes()[:-500])
    elif content == "a list":
        torch.save([torch.zeros(2)], path)
    elif content == "a number":
        torch.save({"model.layers.0.x": 5}, path)
    else:
        index = json.loads((source / "pytorch_model.bin.index.json").read_text())
        index["weight_map"]["lm_head.weight"] = "../../elsewhere.bin"
        (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    line = error_of(run("cut", source, "--layers", "2", "--out", tmp_path / "out", "--allow-pickle"))
    assert "pytorch_model" in line
    assert not (tmp_path / "evil-was-here").exists()
    assert not (tmp_path / "out").exists()


def test_pickles_are_not_scanned(tiny_llama, tmp_path):
    source = as_pickles(tiny_llama, tmp_path / "bin", 1)
    result = run("cut", source, "--n", "2", "--out", tmp_path / "out", "--allow-pickle")
    assert result.exit_code in (1, 2)
    assert "name the place" in result.stderr
