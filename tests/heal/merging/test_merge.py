"""Merging: the trained function, in the source's dtype, and everything else bit for bit."""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from heal import TextSource, held_out_loss
from heal.merging.agreement import agreement
from heal.merging.tensors import merged_tensor
from heal.result import Agreement
from heal.text.packing import collate
from heal.text.sources import hold_out
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.common.machine.memory import give_back
from tests.support.checkpoints import same_weights, weights
from tests.support.healing import changed_copy, heal_small, merge_quietly
from tests.support.models import save_tiny


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def compute_in(folder):
    """In what the adapter of a family is trained: one of them in bfloat16, which some CPUs are very slow at."""
    return torch.bfloat16 if "gpt_neox" in str(folder) else torch.float32


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma2"])
def base(request, tmp_path_factory, sample_model):
    """A random model of a family, in shards, stored in bf16 for one of them."""
    folder = tmp_path_factory.mktemp("base") / request.param
    save_tiny(folder, sample_model, request.param, dtype=compute_in(folder), shards="1MB")
    (folder / "scan.json").write_text('{"layers": 3}')
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory, small_text):
    settings = {"alpha": 8, "learning_rate": 3e-2, "dtype": name_of(compute_in(base))}
    return heal_small(base, small_text, tmp_path_factory.mktemp("adapter") / "adapter", tokens=1024, **settings).out


def trained_model(base, adapter):
    from bitsandbytes.nn import Linear4bit
    from peft import PeftModel

    kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    nf4 = BitsAndBytesConfig(**kind, bnb_4bit_compute_dtype=compute_in(base))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=compute_in(base), quantization_config=nf4)
    for module in model.modules():  # else a CPU with AVX512-bf16 multiplies in bf16, though float32 is asked for
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(model, adapter).eval()


def test_the_merged_weights_are_those_that_were_trained(base, adapter, tmp_path):
    from bitsandbytes.functional import dequantize_4bit

    document = merge_quietly(adapter, tmp_path / "merged", base="dequantised", compare_logits=False)
    before, after = weights(base), weights(tmp_path / "merged")
    assert before.keys() == after.keys()
    trained = dict(trained_model(base, adapter).named_modules())
    conv = "gpt2" in str(base)
    deltas = 0
    for name in before:
        short = name.removesuffix(".weight")
        module = trained.get(f"base_model.model.{short}", trained.get(f"base_model.model.transformer.{short}"))
        assert before[name].dtype == after[name].dtype
        if module is None or not _quantised(module):
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


def plain_logits(folder, base, ids):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=compute_in(base))(input_ids=ids).logits.float()


def test_the_merged_model_computes_what_was_trained(base, adapter, tmp_path):
    merge_quietly(adapter, tmp_path / "trained", base="dequantised", compare_logits=False)
    merge_quietly(adapter, tmp_path / "original", base="original", compare_logits=False)
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        wanted = trained_model(base, adapter)(input_ids=ids).logits.float()
        trained, original = (
            (plain_logits(tmp_path / name, base, ids) - wanted).std() / wanted.std() for name in ("trained", "original")
        )
    assert trained < (0.05 if compute_in(base) == torch.bfloat16 else 1e-5)  # rounding alone
    assert trained < original / 2


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_everything_beside_the_weights_comes_along(base, adapter, tmp_path):
    merge_quietly(adapter, tmp_path / "merged", base="original", compare_logits=False)
    for path in base.iterdir():
        if path.suffix != ".safetensors":
            assert (tmp_path / "merged" / path.name).read_bytes() == path.read_bytes()
    assert names(tmp_path / "merged") - names(base) == {"heal.json", "README.md"}
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "merged", base))
    assert ours.encode("One") == theirs.encode("One")
    document = json.loads((tmp_path / "merged" / "heal.json").read_text())
    assert document["merge"]["base"] == "original"
    assert document["curve"] == json.loads((adapter / "heal.json").read_text())["curve"]


@pytest.fixture
def tiny_adapter(plain_adapter, tmp_path_factory):
    """A copy, to be damaged."""
    return shutil.copytree(plain_adapter, tmp_path_factory.mktemp("tiny-adapter") / "adapter")


def test_an_adapter_of_another_model_is_refused(tiny_adapter, tiny_llama, tmp_path):
    moved = shutil.copytree(tiny_llama, tmp_path / "elsewhere")
    merge_quietly(tiny_adapter, tmp_path / "moved", model=moved)  # the same model elsewhere is no other model
    other = changed_copy(tiny_llama, tmp_path / "other", ".layers.3.")  # the same shapes
    with pytest.raises(CheckpointError, match="is another model"):
        merge_quietly(tiny_adapter, tmp_path / "merged", model=other)
    assert not (tmp_path / "merged").exists()


def test_what_cannot_be_merged_leaves_nothing(tiny_adapter, tiny_llama, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="--base best"):
        merge_quietly(tiny_adapter, out, base="best")
    with pytest.raises(CheckpointError, match="is not a folder"):
        merge_quietly(tmp_path / "none", out)
    with pytest.raises(CheckpointError, match="is no adapter; give a folder that heal"):
        merge_quietly(tiny_llama, out)
    with pytest.raises(CheckpointError, match="cannot be found .*does not exist.*give it with --model"):
        merge_quietly(tiny_adapter, out, model=tmp_path / "gone")
    cut_short = tmp_path / "short"
    shutil.copytree(tiny_adapter, cut_short)
    path = cut_short / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors"):
        merge_quietly(cut_short, out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(RegrowthError, match="already exists"):
        merge_quietly(tiny_adapter, out)
    with pytest.raises(
        RegrowthError, match=r"--overwrite replaces only what Regrowth wrote, and --out .* holds mine\.txt"
    ):
        merge_quietly(tiny_adapter, out, overwrite=True)
    assert (out / "mine.txt").read_text() == "keep"
    (out / "mine.txt").unlink()
    merge_quietly(tiny_adapter, out)
    with pytest.raises(CheckpointError, match="is a merged model already"):
        merge_quietly(out, tmp_path / "again")


def test_auto_keeps_the_base_that_measures_better_and_says_which(base, adapter, tmp_path, sample_text, sample_heldout):
    document = merge_quietly(adapter, tmp_path / "auto", held_out_tokens=512, compare_logits=False)["merge"]
    text = TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=512)
    losses = {}
    for name in ("dequantised", "original"):
        merge_quietly(adapter, tmp_path / name, base=name, compare_logits=False)
        measured = held_out_loss(
            tmp_path / name, text, length=64, batch_size=2, device="cpu", dtype=name_of(compute_in(base))
        )
        losses[name] = measured.loss
        assert measured.tokens == document["held_out"]["tokens"]
    assert document["chosen"]["losses"] == pytest.approx(losses, abs=1e-6)
    assert losses["dequantised"] != losses["original"]
    assert document["base"] == min(losses, key=losses.get)
    assert same_weights(tmp_path / "auto", tmp_path / document["base"])
    card = (tmp_path / "auto" / "README.md").read_text()
    assert all(f"{loss:.4f}" in card for loss in losses.values())


def test_the_report_on_logits_is_true(base, adapter, tmp_path, sample_heldout):
    """Against logits taken here, by stock peft and stock transformers, whose 4-bit kernels round in another order."""
    trained, original = (
        merge_quietly(adapter, tmp_path / base_of, base=base_of, held_out_tokens=512)["merge"]["agreement"]
        for base_of in ("dequantised", "original")
    )
    document = json.loads((adapter / "heal.json").read_text())
    rows = hold_out(
        TextSource(document["provenance"]["text"]["source"], held_out=str(sample_heldout)),
        AutoTokenizer.from_pretrained(base),
        length=64,
    ).rows[:4]
    stock = trained_model(base, adapter)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "dequantised", dtype=compute_in(base))
    batches = [{key: value for key, value in collate([row]).items() if key != "labels"} for row in rows]
    with torch.no_grad():
        wanted, found = (torch.cat([model(**b).logits[0].double() for b in batches]) for model in (stock, merged))
    p, q = wanted.log_softmax(-1), found.log_softmax(-1)
    assert trained["tokens"] == len(wanted) == 256
    apart = (wanted - found).abs()
    for name, value in (("max_abs", apart.max()), ("mean_abs", apart.mean())):
        assert value / 4 < trained[name] < value * 4, name  # rounding alone: its size, not its digits
    assert trained["kl"] == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=3, abs=1e-5)
    assert trained["kl"] < original["kl"] / (2 if compute_in(base) == torch.float32 else 1)
    assert 0 < trained["mean_abs"] < original["mean_abs"] / 2


def test_agreement_is_what_it_says():
    generator = torch.Generator().manual_seed(0)
    wanted, found = (torch.randn(7, 11, generator=generator) for _ in range(2))
    found[:3] = wanted[:3]
    said = agreement(wanted, found).model_dump()
    p, q = wanted.double().softmax(-1), found.double().softmax(-1)
    assert said["tokens"] == 7
    assert said["max_abs"] == pytest.approx((wanted - found).abs().max().item())
    assert said["mean_abs"] == pytest.approx((wanted - found).abs().mean().item())
    assert said["kl"] == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-5)
    assert said["same_first"] == pytest.approx((wanted.argmax(-1) == found.argmax(-1)).double().mean().item())
    same = Agreement(tokens=7, max_abs=0, mean_abs=0, kl=0, same_first=1)
    assert agreement(wanted, wanted) == same


@pytest.mark.parametrize("bits", [8, 16])
def test_other_precisions(bits, tiny_llama, tmp_path, small_text):
    settings = {"targets": "feed-forward", "learning_rate": 3e-2, "bits": bits}
    healed = heal_small(tiny_llama, small_text, tmp_path / "adapter", tokens=512, **settings)
    document = merge_quietly(healed.out, tmp_path / "merged", base="auto", held_out_tokens=256)["merge"]
    assert document["agreement"]["kl"] < 1e-3
    before, after = weights(tiny_llama), weights(tmp_path / "merged")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if bits == 16:
        assert "chosen" not in document
        assert document["dequantised"] == 0
        assert changed == {f"{name}.weight" for name in healed.to_json()["adapted"]}
    else:
        assert set(document["chosen"]["losses"]) == {"dequantised", "original"}
        merge_quietly(healed.out, tmp_path / "int8", base="dequantised", compare_logits=False)
        packed = weights(tmp_path / "int8")
        name = "model.layers.2.self_attn.q_proj.weight"  # quantised, and not adapted
        held = before[name].to(getattr(torch, healed.to_json()["settings"]["dtype"])).half()  # as int8 is made of it
        scale = held.float().abs().amax(1, keepdim=True) / 127
        steps = packed[name] / scale
        assert torch.allclose(steps, steps.round(), atol=1e-2)
        assert len(steps.round().unique()) > 100


def test_a_damaged_adapter_leaves_nothing(tiny_adapter, tmp_path):
    out = tmp_path / "out"

    def damaged(change, config=None):
        folder = tmp_path / f"damaged-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_adapter, folder)
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        if config:
            path = folder / "adapter_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    def name(tensors, part="lora_B"):
        return next(key for key in tensors if part in key)

    cases = [
        (damaged(lambda t: t.pop(name(t))), r"lacks .*lora_B"),
        (damaged(lambda t: [t.pop(k) for k in list(t) if ".layers.1." in k]), "other matrices than its heal.json"),
        (damaged(lambda t: t[name(t)].fill_(float("nan"))), "no numbers after merging"),
        (damaged(lambda t: t.update({name(t): t[name(t)][:-1].clone()})), "adapter of another model"),
        (damaged(lambda t: t.clear()), "holds no LoRA matrices"),
        (damaged(lambda t: None, {"use_dora": True}), r"not a plain LoRA adapter \(use_dora is set\)"),
        (damaged(lambda t: None, {"alpha_pattern": {"up_proj": 3}}), "alpha_pattern is set"),
        (damaged(lambda t: None, {"peft_type": "IA3"}), "not a plain LoRA adapter"),
    ]
    for folder, message in cases:
        with pytest.raises(CheckpointError, match=message):
            merge_quietly(folder, out, compare_logits=False)
        assert not out.exists()
    with pytest.raises(CheckpointError, match="peft cannot load"):  # where logits are compared, peft sees it first
        merge_quietly(cases[3][0], out, base="dequantised")
    assert not out.exists()
    (tiny_adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no adapter_model\.safetensors"):
        merge_quietly(tiny_adapter, out)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to forget a peak of memory")
def test_writing_takes_the_memory_of_one_tensor(tiny_adapter, tiny_llama, tmp_path, sample_text, sample_heldout):
    """A base of 217 MB in fp32, whose largest projection has 4 MB; some 60 MB are taken for a base of any size."""
    if Version(version("bitsandbytes")) < Version("0.50"):
        pytest.skip("bitsandbytes before 0.50 takes some 32 times a tensor's size to quantise it on the CPU")
    shape = {"layers": 12, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "head_dim": 64}
    shape |= {"num_key_value_heads": 8, "tie_word_embeddings": True}
    big = save_tiny(tmp_path / "big", tiny_llama, shards="20MB", **shape)
    text = TextSource(str(sample_text), held_out=str(sample_heldout), held_out_tokens=64)
    adapter = heal_small(big, text, tmp_path / "adapter", tokens=16, length=16, batch_size=1, rank=2).out

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

    merge_quietly(tiny_adapter, tmp_path / "first", base="dequantised", compare_logits=False)  # whatever is loaded late
    give_back()  # else what the heap has kept hides what is taken
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    merge_quietly(adapter, tmp_path / "merged", base="dequantised", compare_logits=False)
    size = sum(path.stat().st_size for path in big.glob("*.safetensors"))
    assert size > 200 << 20
    assert status("VmHWM") - before < 100 << 20


def test_tensors_are_quantised_on_the_device(plain_adapter, tmp_path, monkeypatch):
    """The CPU stands in for a GPU, whose memory runs out at the third tensor in the second merge."""
    asked, room = [], [10**6]

    def on_card(*given, device="cpu"):
        asked.append(device)
        if device != "cpu" and asked.count(device) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return merged_tensor(*given)

    monkeypatch.setattr("heal.merging.merge.pick_device", lambda device: "cuda:1")
    monkeypatch.setattr("heal.merging.merge.merged_tensor", on_card)
    merge_quietly(plain_adapter, tmp_path / "roomy", base="dequantised", compare_logits=False)
    assert set(asked) == {"cuda:1"}
    count = len(asked)
    asked.clear()
    room[0] = 2
    merge_quietly(plain_adapter, tmp_path / "full", base="dequantised", compare_logits=False)
    assert asked == ["cuda:1"] * 3 + ["cpu"] * (count - 2)
    assert same_weights(tmp_path / "full", tmp_path / "roomy")


def test_bases_are_measured_with_tensors_quantised_where_the_model_is(plain_adapter, tmp_path, monkeypatch):
    asked = []

    def on_device(*given, device="none"):
        asked.append(device)
        return merged_tensor(*given, device=device)

    monkeypatch.setattr("heal.merging.agreement.merged_tensor", on_device)
    merge_quietly(plain_adapter, tmp_path / "merged", base="auto", compare_logits=False, device="cpu")
    assert set(asked) == {"cpu"}
