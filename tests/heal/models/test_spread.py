"""A model over several GPUs. Where there is none: a dtype stands for a place, as products of two dtypes fail like those
of two devices; and the device `meta` is a second one that holds no numbers.
"""

import json

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_execution_device_hook
from transformers import AutoConfig, AutoModelForCausalLM

from heal import DistillSettings
from heal.models import quantise, spread
from heal.models.spread import carry_states
from heal.models.student import build_student
from heal.training.distill import attach_distillation
from prune.checkpoint.source import Source
from prune.common.errors import RegrowthError
from prune.models import spread as places_of
from prune.models.loading import decoder_layers, load_model
from prune.models.spread import place_layers, share_layers
from tests.support.checkpoints import weights
from tests.support.commands import check_refused, run
from tests.support.healing import distil_tiny, heal_tiny, patched_copy

GIB = 1 << 30
PLAIN = {"bits": 16, "dtype": "float32", "dropout": 0.0, "eval_every": 2}


def test_layers_are_shared_by_room():
    assert share_layers(80, GIB, [40 * GIB, 60 * GIB]) == [32, 48]
    assert share_layers(80, GIB, [20 * GIB, 24 * GIB, 24 * GIB, 24 * GIB]) == [17, 21, 21, 21]
    assert share_layers(10, GIB, [-GIB, 12 * GIB]) == [0, 10]
    assert share_layers(10, GIB, [5 * GIB, 5 * GIB]) == [5, 5]
    assert share_layers(11, GIB, [5 * GIB, 5 * GIB]) is None
    for rooms in ([7 * GIB + 9, 3 * GIB, 11 * GIB], [GIB // 2, 19 * GIB + 5, 2 * GIB]):
        shares = share_layers(20, GIB, rooms)
        assert sum(shares) == 20
        assert all(share * GIB <= room for share, room in zip(shares, rooms, strict=True))


def two(monkeypatch, first, second, free=64 * GIB):
    monkeypatch.setattr(places_of, "gpus", lambda: [(first, free), (second, free)])
    monkeypatch.setattr(places_of, "check_spread", lambda *_: None)


def test_the_peak_is_that_of_the_gpu_that_held_most(monkeypatch):
    two(monkeypatch, "cuda:0", "cuda:1")
    held = {"cuda:0": 3 * GIB, "cuda:1": 5 * GIB}
    monkeypatch.setattr(places_of.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(places_of.torch.cuda, "max_memory_allocated", lambda place: held[str(place)])
    assert places_of.peak_over("cuda")["cuda_bytes"] == 5 * GIB
    assert "cuda_bytes" not in places_of.peak_over("cpu")


def test_every_part_has_a_place_and_what_does_not_fit_is_told(tiny_llama, monkeypatch):
    two(monkeypatch, "cuda:0", "cuda:1")
    source = Source(tiny_llama, "tiny")
    places = place_layers(source, bits=4, dtype=torch.bfloat16)
    layers = {name: place for name, place in places.items() if ".layers." in name}
    assert list(layers.values()) == sorted(layers.values())
    assert set(layers.values()) == {"cuda:0", "cuda:1"}
    assert {place for name, place in places.items() if name not in layers} == {"cuda:0"}
    named = [name for name, _ in load_model(source).named_parameters()]
    assert all(any(f"{name}.".startswith(f"{part}.") for part in places) for name in named)
    two(monkeypatch, "cuda:0", "cuda:1", free=1000)
    with pytest.raises(
        RegrowthError, match=r"GiB of tiny do not fit on 2 GPUs with 0\.0 GiB free; use fewer --bits or"
    ):
        place_layers(source, bits=16, dtype=torch.bfloat16)


@pytest.fixture
def two_dtypes(monkeypatch):
    """The second half of the layers is in float64, as if on another GPU."""

    def split(model):
        layers = decoder_layers(model)
        for layer in layers[len(layers) // 2 :]:
            layer.double()
        carry_states(model)

    def carry(tensor, place):
        return tensor.to(place) if tensor.is_floating_point() else tensor

    two(monkeypatch, "cpu", "cpu")
    monkeypatch.setattr(quantise, "carry_states", split)
    monkeypatch.setattr(spread, "_place", lambda module: next(module.parameters()).dtype)
    monkeypatch.setattr(spread, "_carry", carry)


def compare(alone, apart):
    for one, other in zip(alone.record.curve, apart.record.curve, strict=True):
        assert other.held_out_loss == pytest.approx(one.held_out_loss, abs=1e-4)
        assert other.loss == pytest.approx(one.loss, abs=1e-4)
    ours, theirs = weights(alone.out), weights(apart.out)
    assert ours.keys() == theirs.keys()
    assert {weight.dtype for weight in theirs.values()} == {torch.float32, torch.float64}  # it was in two places
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-3


@pytest.mark.parametrize("checkpointing", [True, False])
def test_distilling_in_two_places_gives_the_numbers_of_one(
    checkpointing, tiny_llama, pruned, small_text, tmp_path, two_dtypes
):
    """With a patched tensor in either place, and the teacher's states matched."""
    patched = patched_copy(pruned, tmp_path / "patched", only="mlp.down_proj.weight")
    how = {**PLAIN, "match_hidden": 0.5, "checkpointing": checkpointing}
    alone = distil_tiny(tiny_llama, patched, small_text, tmp_path / "alone", tokens=1024, **how)
    spread_out = {"device_map": "auto"}
    apart = distil_tiny(tiny_llama, patched, small_text, tmp_path / "apart", tokens=1024, run=spread_out, **how)
    compare(alone, apart)


def test_healing_by_text_in_two_places(pruned, small_text, tmp_path, two_dtypes):
    alone = heal_tiny(pruned, small_text, tmp_path / "alone", tokens=512, **PLAIN)
    apart = heal_tiny(pruned, small_text, tmp_path / "apart", tokens=512, run={"device_map": "auto"}, **PLAIN)
    compare(alone, apart)


def test_all_that_enters_a_layer_is_brought_to_its_device(tiny_llama, pruned, monkeypatch):
    """Teacher and student over the CPU and `meta`: whatever is left behind on the other device fails."""
    full = load_model(Source(tiny_llama, "tiny"), dtype=torch.float32)
    for layer in decoder_layers(full)[6:]:
        layer.to("meta")
    carried = []

    def carry(tensor, place):
        if tensor.device != place:
            carried.append(place.type)
        return torch.zeros_like(tensor, device=place) if tensor.is_meta and place.type == "cpu" else tensor.to(place)

    monkeypatch.setattr(spread, "_carry", carry)
    carry_states(full.requires_grad_(False))
    kept = tuple(json.loads((pruned / "prune_plan.json").read_text())["kept"])
    student = build_student(full, AutoConfig.from_pretrained(pruned), kept, {})
    attach_distillation(student, full, kept=kept, prefix=2, cut=3, settings=DistillSettings(match_hidden=0.5))
    carried.clear()
    rows = torch.arange(5, 69).view(2, 32)
    batch = {"input_ids": rows, "position_ids": torch.arange(16).repeat(2, 2), "labels": rows}
    loss = student(**batch)["loss"]
    assert loss.isfinite()
    assert loss.device.type == "cpu"
    assert carried.count("cpu") == 2  # the last state of each tree comes back
    assert carried.count("meta") >= 4


def test_hooks_of_accelerate_come_off_and_twins_have_ours(tiny_llama, pruned):
    """As after a load over several devices: accelerate's hooks would run the teacher's module in its twin's place."""
    full = load_model(Source(tiny_llama, "tiny"), dtype=torch.float32).requires_grad_(False)
    add_hook_to_module(full, AlignDevicesHook("cpu", io_same_device=True), append=True)
    attach_execution_device_hook(full, "cpu")  # of every module, as `dispatch_model` does
    assert "forward" in vars(decoder_layers(full)[0].mlp.down_proj)
    carry_states(full)
    student = build_student(full, AutoConfig.from_pretrained(pruned), (0, 1, 2, 3, 6, 7), {})
    for model in (full, student):
        assert not any(name in vars(module) for module in model.modules() for name in ("_hf_hook", "forward"))
        parts = (*decoder_layers(model), model.get_input_embeddings(), model.get_output_embeddings())
        assert all(list(part._forward_pre_hooks.values()) == [spread._bring_inputs] for part in parts)


SMALL = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 100}
FAMILIES = {
    "gpt2": {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 100},
    "opt": {**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 32},
    "olmo": {**SMALL, "intermediate_size": 96},  # its norms have no weights
    "falcon": SMALL,
    "gemma3_text": {**SMALL, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_in_two_places(family, tmp_path, two_dtypes):
    """By our hooks, and by those of accelerate where transformers takes our table: half of the layers on the disk."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "model")
    source, ids = Source(tmp_path / "model", family), torch.arange(48).view(2, 24)
    logits = model(input_ids=ids).logits
    table = place_layers(source, bits=16, dtype=torch.float32)
    halves = {name: "disk" if name.endswith((".2", ".3")) else place for name, place in table.items()}
    offloaded = load_model(source, dtype=torch.float32, device_map=halves, offload_folder=tmp_path / "offload")
    assert torch.allclose(offloaded(input_ids=ids).logits, logits, atol=1e-5)
    quantise.carry_states(model)
    assert torch.allclose(model(input_ids=ids).logits, logits, atol=1e-4)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    assert hidden.dtype == torch.float32  # where the labels are


@pytest.mark.parametrize(
    ("options", "count", "message"),
    [
        (["--device-map", "auto"], 1, "--device-map auto spreads a model over GPUs, and there are 1; leave it out"),
        (["--device-map", "balanced"], 2, "--device-map balanced is unknown; auto spreads the layers over all GPUs"),
        (["--device-map", "auto", "--device", "cuda:1"], 2, "takes all GPUs, and --device cuda:1 names one device"),
    ],
)
def test_what_cannot_be_spread_is_refused(options, count, message, pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(places_of, "gpus", lambda: [(f"cuda:{number}", GIB) for number in range(count)])
    check_refused(run("heal", "qlora", pruned, "--text", "a.txt", "--out", tmp_path / "a", *options), 2, message)


def test_a_launcher_and_a_spread_model_do_not_go_together(pruned, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = run("heal", "qlora", pruned, "--text", "a.txt", "--out", tmp_path / "a", "--device-map", "auto")
    check_refused(done, 2, "--device-map spreads the model of one process; leave it out, or start without a launcher")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("bits", [4, 16])
def test_two_gpus_give_the_numbers_of_one(bits, tiny_llama, pruned, small_text, tmp_path):
    how = {**PLAIN, "bits": bits, "match_hidden": 0.5}
    alone = distil_tiny(tiny_llama, pruned, small_text, tmp_path / "a", run={"device": "cuda:0"}, **how)
    apart = distil_tiny(
        tiny_llama, pruned, small_text, tmp_path / "b", run={"device": "auto", "device_map": "auto"}, **how
    )
    for one, other in zip(alone.record.curve, apart.record.curve, strict=True):
        assert other.held_out_loss == pytest.approx(one.held_out_loss, abs=1e-3)
