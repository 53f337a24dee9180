"""Merging: the trained function, in the source's dtype, and everything else bit for bit."""

import json
import shutil

import pytest
import torch
from healing_models import tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from heal import Settings, TextSource, merge, qlora
from prune.errors import CheckpointError, RegrowthError, UsageError

NF4 = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma2"])
def base(request, tmp_path_factory, sample_model):
    """A random model of a family, in two shards, stored in bf16 for one of them."""
    folder = tmp_path_factory.mktemp("base") / request.param
    tokenizer = AutoTokenizer.from_pretrained(sample_model)
    model = tiny(request.param)
    model.resize_token_embeddings(len(tokenizer))
    if request.param == "gpt_neox":
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="6MB")
    tokenizer.save_pretrained(folder)
    (folder / "prune_plan.json").write_text('{"kept": [0, 1, 2]}')
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory, sample_text, sample_heldout):
    text = TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=128)
    settings = Settings(length=64, batch_size=2, accumulate=1, rank=4, alpha=8, learning_rate=3e-2)
    out = tmp_path_factory.mktemp("adapter") / "adapter"
    return qlora(base, text, out, tokens=1024, settings=settings, device="cpu", shown=False).out


def weights(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def trained_model(base, adapter):
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=NF4)
    return PeftModel.from_pretrained(model, adapter).eval()


def test_the_merged_weights_are_those_that_were_trained(base, adapter, tmp_path):
    from bitsandbytes.functional import dequantize_4bit

    document = merge(adapter, tmp_path / "merged", shown=False)
    before, after = weights(base), weights(tmp_path / "merged")
    assert before.keys() == after.keys()
    trained = dict(trained_model(base, adapter).named_modules())
    conv = "gpt2" in str(base)
    deltas = 0
    for name in before:
        module = trained.get("base_model.model." + name.removesuffix(".weight"))
        module = (
            trained.get("base_model.model.transformer." + name.removesuffix(".weight")) if module is None else module
        )
        assert before[name].dtype == after[name].dtype
        if module is None or name.removesuffix(".weight").split(".")[-1] in ("bias",) or not _quantised(module):
            assert torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)), name
            continue
        weight = (module.base_layer if hasattr(module, "base_layer") else module).weight
        expected = dequantize_4bit(weight.data, weight.quant_state).float()
        if hasattr(module, "lora_A"):
            deltas += 1
            delta = 2.0 * (module.lora_B["default"].weight @ module.lora_A["default"].weight).float()
            assert delta.abs().max() > 0
            expected = expected + delta
        expected = (expected.T if conv else expected).to(before[name].dtype)
        assert torch.allclose(after[name].float(), expected.float(), atol=1e-6, rtol=1e-5), name
        assert not torch.equal(after[name], before[name])
    assert deltas == document["merge"]["adapted"] > 0


def _quantised(module):
    return type(getattr(module, "base_layer", module)).__name__ == "Linear4bit"


def test_the_merged_model_computes_what_was_trained(base, adapter, tmp_path):
    merge(adapter, tmp_path / "trained", shown=False)
    merge(adapter, tmp_path / "original", base="original", shown=False)
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        wanted = trained_model(base, adapter)(input_ids=ids).logits.float()
        found = {
            name: AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.bfloat16)(
                input_ids=ids
            ).logits.float()
            for name in ("trained", "original")
        }
    scale = wanted.std()
    trained, original = ((found[name] - wanted).std() / scale for name in ("trained", "original"))
    assert trained < 0.05  # rounding to bf16 alone
    assert trained < original / 2


def test_everything_beside_the_weights_comes_along(base, adapter, tmp_path):
    merge(adapter, tmp_path / "merged", base="original", shown=False)
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "merged" / path.name).read_bytes() == path.read_bytes()
    assert {p.name for p in (tmp_path / "merged").iterdir()} - {p.name for p in base.iterdir()} == {
        "heal.json",
        "README.md",
    }
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").encode("One") == AutoTokenizer.from_pretrained(
        base
    ).encode("One")
    document = json.loads((tmp_path / "merged" / "heal.json").read_text())
    assert document["merge"]["base"] == "original"
    assert document["curve"] == json.loads((adapter / "heal.json").read_text())["curve"]


@pytest.fixture
def tiny_adapter(tiny_llama, tmp_path_factory, sample_text, sample_heldout):
    text = TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=128)
    out = tmp_path_factory.mktemp("tiny-adapter") / "adapter"
    settings = Settings(length=64, batch_size=2, accumulate=1, rank=4)
    return qlora(tiny_llama, text, out, tokens=256, settings=settings, device="cpu", shown=False).out


def test_an_adapter_of_another_model_is_refused(tiny_adapter, tiny_llama, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_llama, other)
    merge(tiny_adapter, tmp_path / "moved", model=other, shown=False)  # the same model elsewhere is no other model
    changed = load_file(other / "model.safetensors")
    layers = [name for name in changed if ".layers.3." in name]
    for name in layers:  # the same shapes: as if another block had been cut
        changed[name] = changed[name.replace(".layers.3.", ".layers.4.")].clone()
    save_file(changed, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="is another model"):
        merge(tiny_adapter, tmp_path / "merged", model=other, shown=False)
    assert not (tmp_path / "merged").exists()


def test_what_cannot_be_merged_leaves_nothing(tiny_adapter, tiny_llama, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="--base best"):
        merge(tiny_adapter, out, base="best", shown=False)
    with pytest.raises(CheckpointError, match="is not a folder"):
        merge(tmp_path / "none", out, shown=False)
    with pytest.raises(CheckpointError, match=r"heal\.json does not exist"):
        merge(tiny_llama, out, shown=False)
    with pytest.raises(CheckpointError, match="does not exist"):
        merge(tiny_adapter, out, model=tmp_path / "gone", shown=False)
    cut_short = tmp_path / "short"
    shutil.copytree(tiny_adapter, cut_short)
    path = cut_short / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        merge(cut_short, out, shown=False)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(RegrowthError, match="already exists"):
        merge(tiny_adapter, out, shown=False)
    assert (out / "mine.txt").read_text() == "keep"
    merge(tiny_adapter, out, overwrite=True, shown=False)
    with pytest.raises(CheckpointError, match="is a merged model already"):
        merge(out, tmp_path / "again", shown=False)
