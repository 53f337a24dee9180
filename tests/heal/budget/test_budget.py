"""The budget's arithmetic against what is really held: bytes of weights, what autograd keeps, FLOPs; the command."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.gpu_steps.shapes import llama_shape
from heal import BudgetQuery, Settings, TrainingRun, plan_budget
from heal.budget.cards import GPUS
from heal.budget.cost import (
    GIB,
    Job,
    flops_per_token,
    kept_layers,
    memory_of,
    usable,
)
from heal.models.adapters import add_adapter
from heal.models.lm_head import attach_loss
from heal.models.quantise import load_frozen
from heal.models.targets import find_targets
from prune import cut, plan_cut
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, UsageError
from prune.common.sizes import parse_tokens
from prune.families.subject import read_shape
from prune.models.loading import decoder_layers
from tests.support.checkpoints import synthetic_checkpoint, write_shard
from tests.support.commands import check_refused, run, succeed
from tests.support.hub import StubHub, call, serve
from tests.support.models import FAMILIES, tiny
from tests.support.versions import needs_newer_transformers


@pytest.fixture(scope="module", params=[*FAMILIES, "qwen3"])
def saved(request, tmp_path_factory):
    """A random model of a family, in a folder."""
    folder = tmp_path_factory.mktemp("budget") / request.param
    tiny(request.param).save_pretrained(folder)
    return folder


RANK_4 = Settings(rank=4)


def job_of(shape, **changes):
    settings = {"method": "qlora", "kept": tuple(range(len(shape.layers))), "first": 0, "bits": 16, "role": "all"}
    settings |= {"rank": 8, "dropout": 0.05, "length": 64, "batch_size": 2, "checkpointing": False, "cuda": False}
    return Job(**(settings | changes))


def held(model):
    """Bytes of a model's frozen values, and of what quantisation adds to them."""
    values, extra, seen = 0, 0, set()
    for module in model.modules():
        for tensor in module._parameters.values():
            if tensor is None or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            values += tensor.nbytes
            state = getattr(tensor, "quant_state", None)
            if state is not None:
                inner = state.state2
                extra += sum(t.nbytes for t in (state.absmax, state.code, inner.absmax, inner.code))
            if getattr(tensor, "SCB", None) is not None:
                extra += tensor.SCB.nbytes
    return values, extra


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_weights_are_counted_to_the_byte(saved, bits):
    model = load_frozen(Source(saved, "tiny"), bits=bits, device="cpu", dtype="bfloat16")
    values, extra = held(model)
    shape = read_shape(saved)
    found = memory_of(shape, job_of(shape, bits=bits))
    assert found.weights == values
    assert found.quantisation == pytest.approx(extra, rel=0.02, abs=64)
    assert shape.values == sum(p.numel() for p in tiny(saved.name).parameters())


@pytest.mark.parametrize("role", ["feed-forward", "all"])
def test_adapters_are_counted_to_the_byte(saved, role):
    model = load_frozen(Source(saved, "tiny"), bits=16, device="cpu", dtype="bfloat16")
    adapted = add_adapter(model, find_targets(model, role), rank=8, alpha=8, dropout=0.0, base="x")
    trained = [p for p in adapted.parameters() if p.requires_grad]
    shape = read_shape(saved)
    found = memory_of(shape, job_of(shape, role=role))
    assert found.adapter == sum(p.nbytes for p in trained)
    assert found.optimiser == 3 * found.adapter  # a gradient and two moments, all fp32
    assert all(p.dtype == torch.float32 for p in trained)


@pytest.mark.parametrize(
    ("bits", "role", "dropout", "length"), [(16, "feed-forward", 0.05, 64), (16, "all", 0.0, 96), (4, "all", 0.05, 32)]
)
def test_what_autograd_keeps_of_a_layer(saved, bits, role, dropout, length):
    """Counted by torch's own hooks on saved tensors, weights aside, in packed rows."""
    if saved.name == "gemma2":
        needs_newer_transformers("keeps more of a layer of Gemma 2 than is reckoned")
    rows = 2
    model = load_frozen(Source(saved, "tiny"), bits=bits, device="cpu", dtype="bfloat16")
    attach_loss(model)
    adapted = add_adapter(model, find_targets(model, role), rank=8, alpha=8, dropout=dropout, base="x").train()
    own = {t.untyped_storage().data_ptr() for t in (*adapted.parameters(), *adapted.buffers())}
    layer, inside, kept, alive = decoder_layers(model)[1], [False], {}, []
    layer.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
    layer.register_forward_hook(lambda *_: inside.__setitem__(0, False))

    def pack(tensor):
        storage = tensor.untyped_storage()
        if inside[0] and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address comes twice
        return tensor

    ids = torch.arange(rows * length).reshape(rows, length) % 290 + 5
    positions = torch.arange(length // 2).repeat(2)[None].expand(rows, -1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        adapted(input_ids=ids, position_ids=positions, labels=ids)
    shape = read_shape(saved)
    job = job_of(shape, bits=bits, role=role, dropout=dropout, length=length)
    one = replace(shape, layers=shape.layers[:1])
    two = replace(shape, layers=shape.layers[:2])
    difference = [memory_of(s, job.but(kept=tuple(range(len(s.layers))))).activations for s in (one, two)]
    assert difference[1] - difference[0] == pytest.approx(sum(kept.values()), rel=0.05)


@pytest.mark.parametrize(("family", "head_width"), [("qwen3", 16), ("gemma3_text", 16), ("olmo2", 0)])
def test_norms_of_queries_and_keys_are_counted_once_a_head(family, head_width, tmp_path):
    """OLMo 2 normalises all heads at once."""
    tiny(family).save_pretrained(tmp_path)
    layer = read_shape(tmp_path).layers[0]
    names = load_file(tmp_path / "model.safetensors")
    widths = {name.split("layers.0.")[1]: len(t) for name, t in names.items() if "layers.0." in name and "norm" in name}
    times = {"self_attn.q_norm.weight": 4, "self_attn.k_norm.weight": 2} if head_width else {}
    assert {widths[name] for name in times} <= {head_width}
    assert layer.norms == sum((4 * width + 4) * times.get(name, 1) for name, width in widths.items())


class Counter(TorchDispatchMode):
    """Adds up what torch's own formulas say of every operation that runs."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=found) if formula else 0
        return found


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_operations_are_those_that_torch_counts(family, tmp_path):
    tiny(family, attention="eager").save_pretrained(tmp_path / family)
    model = load_frozen(Source(tmp_path / family, "tiny"), bits=16, device="cpu", dtype="bfloat16")
    model.set_attn_implementation("eager")
    attach_loss(model)
    adapted = add_adapter(model, find_targets(model, "all"), rank=8, alpha=8, dropout=0.0, base="x").train()
    adapted.enable_input_require_grads()
    ids = torch.arange(128).reshape(2, 64) + 5
    with Counter() as counter:
        adapted(input_ids=ids, labels=ids)["loss"].backward()
    shape = read_shape(tmp_path / family)
    assert flops_per_token(shape, job_of(shape, dropout=0.0)) == pytest.approx(counter.total / 128, rel=0.03)


def large(layers, hidden, inner, key_value=8, heads=64):
    """A Llama of some size, as its headers would tell."""
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner, "vocab_size": 32000}
    return llama_shape("large", {**sizes, "num_attention_heads": heads, "num_key_value_heads": key_value})


def test_published_sizes():
    """Llama-2-70B in NF4: 35 GB whole; 22 GB without 40 % of its layers, which a 40 GB card holds, as published."""
    whole = large(80, 8192, 28672)
    assert whole.values == pytest.approx(69e9, rel=0.01)
    job = job_of(whole, bits=4, role="feed-forward", length=2048, batch_size=1, cuda=True, checkpointing=True)
    full, pruned = memory_of(whole, job), memory_of(whole, job.but(kept=kept_layers(80, 32)))
    assert (full.weights + full.quantisation) / 1e9 == pytest.approx(35.9, abs=0.5)
    assert (pruned.weights + pruned.quantisation) / 1e9 == pytest.approx(21.8, abs=0.5)
    room = {gpu.name: usable(gpu.memory) for gpu in GPUS}
    assert pruned.total < room["A100-40GB"] < full.total < room["A100-80GB"]
    seven = large(32, 4096, 11008, heads=32, key_value=32)
    a100 = next(gpu for gpu in GPUS if gpu.name == "A100-80GB")
    rate = a100.peak * a100.share / flops_per_token(seven, job.but(kept=tuple(range(32))))
    assert rate == pytest.approx(2341, rel=0.2)  # Qwen-7B, Q-LoRA on one A100-80GB, as its README tells


def test_less_is_less():
    shape = large(80, 8192, 28672)
    job = job_of(shape, bits=4, role="feed-forward", cuda=True, checkpointing=True)
    base = memory_of(shape, job)
    assert memory_of(shape, job.but(checkpointing=False)).total > base.total
    assert memory_of(shape, job.but(rank=16)).total > base.total
    assert memory_of(shape, job.but(role="all")).adapter > base.adapter
    assert memory_of(shape, job.but(bits=8)).weights == pytest.approx(2 * base.weights, rel=0.05)
    fewer = job.but(kept=kept_layers(80, 32))
    assert memory_of(shape, fewer).weights < base.weights
    assert memory_of(shape, fewer.but(method="distill")).weights == base.weights  # the teacher is all there
    assert flops_per_token(shape, fewer.but(method="distill")) > flops_per_token(shape, fewer)
    after = fewer.but(first=40)
    assert flops_per_token(shape, after) < flops_per_token(shape, fewer)
    assert memory_of(shape, after).adapter == base.adapter // 80 * 8


def test_the_largest_batch_fits_and_one_more_does_not(tiny_llama):
    found = plan_budget(tiny_llama, BudgetQuery(n=2, gpu_memory=2 * GIB), Settings(rank=4, length=128))
    mine, *rest = found.gpus
    shape, job = read_shape(tiny_llama), found.settings
    assert (mine.gpu.name, mine.gpu.memory) == ("yours", 2 * GIB)
    assert [one.gpu.name for one in rest] == [gpu.name for gpu in GPUS]
    for rows, fits in ((mine.rows, True), (mine.rows + 1, False)):
        held = memory_of(shape, job.but(batch_size=rows)).total
        assert (held <= usable(2 * GIB)) is fits
    assert mine.holds == (mine.rows >= job.batch_size)
    assert mine.longest == 512  # the model reads no more
    assert mine.hours == pytest.approx(found.tokens / mine.tokens_per_second / 3600)
    assert plan_budget(tiny_llama, BudgetQuery(n=2, gpu_memory=GIB // 2), RANK_4).gpus[0].rows == 0


def test_a_cut_model_tells_its_own_cut(tiny_llama, tmp_path):
    pruned = cut(plan_cut(tiny_llama, n=3, start=2), tmp_path / "pruned", show_progress=False)
    planned, there = plan_budget(tiny_llama, BudgetQuery(n=3, start=2), RANK_4), plan_budget(pruned, settings=RANK_4)
    first, second = (budget.memory.model_copy(update={"loading": 0}) for budget in (there, planned))
    assert first == second
    assert there.kept == (0, 1, 2, 3, 4)
    after = plan_budget(pruned, settings=Settings(rank=4, targets="after-cut"))
    assert (after.settings.first, after.settings.role) == (2, "all")
    distilled = plan_budget(pruned, BudgetQuery(method="distill"), RANK_4)
    assert distilled.kept == (0, 1, 5, 6, 7)
    assert distilled.memory.weights == plan_budget(tiny_llama, settings=RANK_4).memory.weights


def test_it_is_estimated_without_torch(tiny_llama):
    code = (
        "import sys; from heal import BudgetQuery, Settings, plan_budget; "
        f"plan_budget({str(tiny_llama)!r}, BudgetQuery(n=2), Settings(rank=4)); "
        "print('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_of_a_hub_model_the_headers_are_enough(tmp_path):
    source = synthetic_checkpoint(tmp_path / "source", rows=4_000)  # four shards of two MB
    with serve(StubHub("someone/model", source)) as hub:
        words = ["budget", "someone/model", "--n", "2", "--rank", "4", "--json"]
        done = call(hub, tmp_path / "cache", "heal", *words)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["model"], document["layers"], len(document["kept"])) == ("someone/model", 8, 6)
    assert document["parameters"] == plan_budget(source, BudgetQuery(n=2), RANK_4).parameters
    assert sum(size for name, size in hub.fetched.items() if name.endswith(".safetensors")) <= 4 << 17


def test_the_command(sample_model):
    command = ["heal", "budget", sample_model, "--n", "8"]
    document = json.loads(succeed(*command, "--gpu-memory", "4GiB", "--tokens", "2M", "--json").stdout)
    assert document["format"] == "regrowth.budget/4"
    assert document["layers"] == 30
    assert len(document["kept"]) == 22
    assert document["tokens"] == 2_000_000
    memory = document["memory"]
    parts = ("weights", "quantisation", "adapter", "optimiser", "activations")
    assert memory["step"] == sum(memory[name] for name in parts) + max(memory["layer"], memory["logits"])
    assert document["memory_without_checkpointing"]["step"] > memory["step"]
    assert [card["gpu"]["name"] for card in document["gpus"]] == ["yours", *(gpu.name for gpu in GPUS)]
    chain = ["scan", "cut", "patch", "heal", "merge", "run", "compare", "sweep"]
    assert [station["name"] for station in document["stations"]] == chain
    assert all([way["name"] for way in card["stations"]] == chain for card in document["gpus"])
    shown = succeed(*command, "--bits", "16", "--checkpointing", "off", "--card", "a10").stdout
    assert "The whole chain on A10" in shown
    assert "evaluate compare" in shown
    assert "expected, not measured" in shown
    assert "A100-40GB" in shown


def test_tokens_are_those_of_a_run_if_none_are_given_and_the_tables_say_so(tiny_llama):
    """heal budget and heal qlora, neither told how many, are about the same run."""
    command = ["heal", "budget", tiny_llama, "--n", "2", "--rank", "4", "--card", "l4"]
    usual = parse_tokens(TrainingRun().tokens)
    assert json.loads(succeed(*command, "--json").stdout)["tokens"] == usual
    for method in ("qlora", "distill"):
        shown = " ".join(succeed(*command, "--method", method).stdout.split())
        assert f"One card, {usual:,} tokens to heal on" in shown
        assert f"2M tokens are the default of heal {method}; --tokens sets another number" in shown
    shown = " ".join(succeed(*command, "--tokens", "3M").stdout.split())
    assert "One card, 3,000,000 tokens to heal on" in shown
    assert "default of heal" not in shown


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--n", "8"], 2, "--n 8: no block"),
        (["--n", "2", "--start", "7"], 2, "from layer 7"),
        (["--rank", "33"], 2, "--rank 33 does not fit"),
        (["--bits", "3"], 2, "--bits 3"),
        (["--dropout", "7"], 2, "--dropout 7.0 is not in [0, 1)"),
        (["--dropout", "nan"], 2, "--dropout nan: use a finite number"),
        (["--length", "1000"], 2, "beyond the 512 tokens"),
        (["--method", "sft"], 2, "--method sft"),
        (["--targets", "heads"], 2, "--targets heads"),
        (["--targets", "after-cut"], 2, "no layer stands after a cut"),
        (["--gpu-memory", "lots"], 2, "--gpu-memory lots"),
        (["--tokens", "many"], 2, "many"),
        (["--batch-size", "0"], 2, "--batch-size 0"),
        (["--checkpointing", "yes"], 2, "--checkpointing yes: use on, off or auto"),
        (["--card", "GTX"], 2, "--card GTX is unknown; use A10, L4, RTX-4090"),
        (["--card", "a100"], 2, "--card a100: use A100-40GB or A100-80GB"),
    ],
)
def test_wrong_options_are_one_line(tiny_llama, options, code, words):
    check_refused(run("heal", "budget", tiny_llama, "--rank", "4", *options), code, words)


def test_weights_that_are_packed_are_refused(tiny_llama, tmp_path):
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    tensors = [("model.embed_tokens.weight", "F32", (8, 4), bytes(128))]
    tensors += [(f"model.layers.{i}.mlp.up_proj.weight", "U8", (8, 2), bytes(16)) for i in range(8)]
    write_shard(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="is of type U8"):
        read_shape(tmp_path)
    with pytest.raises(UsageError):
        kept_layers(8, 8)
