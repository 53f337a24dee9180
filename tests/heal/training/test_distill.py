"""Teacher and student on one copy of the weights, and healing by what the teacher predicts."""

import shutil

import pytest
import torch
from peft import PeftModel
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from heal import DistillSettings
from heal.lineage import first_after_cut, healed_tensors, own_tensors, trace
from heal.models.adapters import add_adapter, checkpoint_activations
from heal.models.quantise import load_frozen
from heal.models.student import answer_parts, build_student, started_at, watching
from heal.models.targets import find_targets
from heal.training.distill import attach_distillation, shared_prefix
from prune import cut, plan_cut
from prune.checkpoint.source import Source
from prune.checkpoint.tensors import read
from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError, UsageError
from prune.models.loading import decoder_layers
from prune.models.walks.walking import PassThrough
from tests.support.checkpoints import weights
from tests.support.healing import PATCHED, changed_copy, distil_tiny, heal_tiny, merge_quietly, patched_copy
from tests.support.models import FAMILIES, tiny

KEPT = (0, 1, 2, 3, 6, 7)


@pytest.fixture(scope="module")
def patched(pruned, tmp_path_factory):
    """The pruned model with the projection before the cut changed, as `heal patch` leaves it."""
    return patched_copy(pruned, tmp_path_factory.mktemp("patch") / "patched")


def _pair(full, pruned, bits=16):
    """The full model, and the student over its tensors."""
    lineage = trace(pruned, full)
    own = {name: read(*place) for name, place in own_tensors(lineage, shown=False).items()}
    teacher = load_frozen(Source(full, "full"), bits=bits, device="cpu")
    return teacher, build_student(teacher, AutoConfig.from_pretrained(pruned), lineage.plan.kept, own)


def _ready(full, pruned, targets="all", bits=16, dropout=0.0, **settings):
    """Teacher and adapted student, the student's forward pass giving the loss."""
    teacher, student = _pair(full, pruned, bits)
    found = find_targets(student, targets, cut=4)
    prefix = shared_prefix(found, 4, student, teacher)
    attach_distillation(
        student, teacher, kept=KEPT, prefix=prefix, cut=4, settings=DistillSettings(**{"plain_loss": 0.0, **settings})
    )
    torch.manual_seed(0)
    return teacher, add_adapter(student, found, rank=4, alpha=8, dropout=dropout, base="x"), prefix


def _batch(rows=2, length=24):
    """Two packed documents a row."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (rows, length), generator=generator)
    positions = torch.cat([torch.arange(length // 3), torch.arange(length - length // 3)]).expand(rows, -1)
    return {"input_ids": ids, "position_ids": positions, "labels": torch.where(positions == 0, -100, ids)}


def _randomised(adapted):
    """Fresh adapters do nothing (B = 0): give them something to do."""
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return adapted


@pytest.mark.parametrize("changed", [False, True], ids=["as cut", "each tensor changed since"])
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_is_the_pruned_model_to_the_bit(family, bits, changed, tmp_path):
    tiny(family).save_pretrained(tmp_path / "full")
    pruned = cut(plan_cut(tmp_path / "full", n=1, start=1), tmp_path / "pruned", show_progress=False)
    if changed:
        pruned = patched_copy(pruned, tmp_path / "changed", "")
    _, student = _pair(tmp_path / "full", pruned, bits)
    alone = load_frozen(Source(pruned, "pruned"), bits=bits, device="cpu")
    batch = _batch()
    batch.pop("labels")
    with torch.no_grad():
        assert torch.equal(student(**batch, use_cache=False).logits, alone(**batch, use_cache=False).logits)


@pytest.mark.parametrize("bits", [4, 16])
def test_a_patch_counts_for_the_student_and_not_for_the_teacher(tiny_llama, pruned, patched, bits):
    teacher, student = _pair(tiny_llama, patched, bits)
    batch = {"input_ids": _batch()["input_ids"], "use_cache": False}
    with torch.no_grad():
        logits = student(**batch).logits
        assert torch.equal(logits, load_frozen(Source(patched, "p"), bits=bits, device="cpu")(**batch).logits)
        assert not torch.equal(logits, load_frozen(Source(pruned, "p"), bits=bits, device="cpu")(**batch).logits)
        full = load_frozen(Source(tiny_llama, "f"), bits=bits, device="cpu")
        assert torch.equal(teacher(**batch).logits, full(**batch).logits)
    shared = {p.data_ptr() for p in teacher.parameters()}
    assert [n for n, p in student.named_parameters() if p.data_ptr() not in shared] == [PATCHED]


def test_one_copy_of_the_weights(tiny_llama, pruned):
    teacher, student = _pair(tiny_llama, pruned, 4)
    ours, theirs = (
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*m.parameters(), *m.buffers())}
        for m in (student, teacher)
    )
    assert ours.keys() < theirs.keys()  # nothing of its own; the dropped layers are the teacher's alone
    modules = {id(module) for module in teacher.modules()}
    assert not modules & {id(module) for module in student.modules()}
    projection = student.model.layers[4].mlp.up_proj
    assert projection.weight.quant_state is teacher.model.layers[6].mlp.up_proj.weight.quant_state


def test_the_teachers_mode_is_its_own(tiny_llama, pruned):
    """On a shared module, teacher.eval() would switch the student's dropout off, and train() the teacher's on."""
    teacher, adapted, _ = _ready(tiny_llama, pruned, dropout=0.5)
    _randomised(adapted).train()
    batch = _batch()
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(adapted(**batch)["loss"].item())
        assert all(module.training for module in adapted.modules())
        assert not any(module.training for module in teacher.modules())
    assert losses[0] != losses[1]
    adapted.eval()
    assert adapted(**batch)["loss"].item() == adapted(**batch)["loss"].item()


@pytest.mark.parametrize("targets", ["all", "after-cut", "feed-forward:after-cut"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_two_models(tiny_llama, pruned, targets, checkpointing):
    """The naive way: two models of their own, whole matrices of logits, autograd."""
    temperature, plain, match = 2.0, 0.25, 0.5
    _, adapted, _ = _ready(tiny_llama, pruned, targets, temperature=temperature, plain_loss=plain, match_hidden=match)
    _randomised(adapted)
    if checkpointing:
        checkpoint_activations(adapted)
    batch = _batch()
    labels = batch["labels"]
    adapted.train()(**batch)["loss"].backward()
    ours = {name: p.grad for name, p in adapted.named_parameters() if p.grad is not None}

    full, alone = (load_frozen(Source(f, "x"), bits=16, device="cpu") for f in (tiny_llama, pruned))
    second = add_adapter(alone, find_targets(alone, targets, cut=4), rank=4, alpha=8, dropout=0.0, base="x")
    own = dict(adapted.named_parameters())
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if "lora" in name:
                parameter.copy_(own[name])
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    kept = labels[:, 1:] != -100
    with torch.no_grad():
        theirs = full(**inputs, output_hidden_states=True)
    mine = second(**inputs, output_hidden_states=True)
    student, teacher = (found.logits[:, :-1][kept].float() for found in (mine, theirs))
    loss = torch.nn.functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).log_softmax(-1), log_target=True,
        reduction="batchmean",
    ) * (1 - plain) * temperature**2  # fmt: skip
    loss = loss + plain * torch.nn.functional.cross_entropy(student, labels[:, 1:][kept])
    near, far = (states[:, :-1][kept].float() for states in (mine.hidden_states[5], theirs.hidden_states[7]))
    loss = loss + match * ((near - far).square().sum(-1) / far.square().sum(-1)).mean()
    loss.backward()
    naive = {name: p.grad for name, p in second.named_parameters() if p.grad is not None}
    assert ours.keys() == naive.keys()
    for name in ours:
        difference = (ours[name] - naive[name]).norm() / naive[name].norm().clamp_min(1e-6)
        assert difference < 0.03, name  # bf16


def test_what_comes_before_the_cut_is_run_once_and_without_a_graph(tiny_llama, pruned):
    calls = {}

    def count(which, model):
        for place, layer in enumerate(decoder_layers(model)):

            def hook(module, args, answer, key=(which, place)):
                calls[key] = calls.get(key, 0) + 1
                calls[key, "graph"] = answer.requires_grad

            layer.register_forward_hook(hook)

    for targets, prefix in (("after-cut", 4), ("all", 0)):
        calls.clear()
        teacher, adapted, shared = _ready(tiny_llama, pruned, targets)
        assert shared == prefix
        count("teacher", teacher)
        count("student", adapted.base_model.model)
        adapted.train()(**_batch())["loss"].backward()
        assert [calls.get(("teacher", place), 0) for place in range(8)] == [1] * 8
        assert not any(calls[("teacher", place), "graph"] for place in range(8))
        assert [calls.get(("student", place), 0) for place in range(6)] == [0] * prefix + [1] * (6 - prefix)
        assert all(calls[("student", place), "graph"] for place in range(prefix, 6))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_plain_healing_after_the_cut_has_no_graph_before_it(tiny_llama, pruned, text, tmp_path, checkpointing):
    graphs = {}

    def hook(module, args, answer):
        if isinstance(module, LlamaDecoderLayer) and module.training:
            graphs.setdefault(module.self_attn.layer_idx, set()).add(answer.requires_grad)

    handle = register_module_forward_hook(hook)
    try:
        settings = {"bits": 16, "targets": "after-cut", "checkpointing": checkpointing}
        result = heal_tiny(pruned, text, tmp_path / "a", tokens=512, **settings)
    finally:
        handle.remove()
    assert graphs == {place: {place >= 4} for place in range(6)}
    adapter = weights(result.out)
    assert all(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in adapter} == {4, 5}


def test_a_decoder_goes_on_from_a_state_it_is_given():
    """In every family, whatever its layers answer with; the layers below are asked for their kind and not run."""
    for family in FAMILIES:
        model = tiny(family)
        layers = decoder_layers(model)
        inputs = {"input_ids": _batch()["input_ids"], "position_ids": _batch()["position_ids"], "use_cache": False}
        seen = {2: None}
        with torch.no_grad():
            with watching(layers, seen, {}):
                whole = model.get_decoder()(**inputs).last_hidden_state
            layers[0].kind = "one of its own"
            shell = started_at(model.get_decoder(), layers, seen[2], 2, answer_parts(model))
            layers[1].register_forward_hook(lambda *_: pytest.fail("a layer below was run"))
            assert torch.equal(shell(**inputs).last_hidden_state, whole)
        assert decoder_layers(model) is layers
        first = PassThrough(layers[0], lambda seen=seen: (seen[2], None))
        assert first.kind == "one of its own"
        assert first()[0] is seen[2]
        assert first()[1:] == (None,)
        assert list(first.parameters()) == []


@pytest.mark.parametrize("targets", ["all", "after-cut"])
def test_documents_of_a_row_do_not_see_one_another(tiny_llama, pruned, targets):
    _, adapted, _ = _ready(tiny_llama, pruned, targets)
    _randomised(adapted).eval()
    batch = _batch(rows=1)
    with torch.no_grad():
        whole = adapted(**batch, num_items_in_batch=1)["loss"].item()
        parts = [
            adapted(**{name: tensor[:, part] for name, tensor in batch.items()}, num_items_in_batch=1)["loss"].item()
            for part in (slice(0, 8), slice(8, 24))
        ]
    assert whole == pytest.approx(sum(parts), rel=0.02)


@pytest.mark.parametrize(("bits", "targets", "adapted"), [(16, "after-cut", 14), (4, "all", 42)])
def test_the_adapter_is_one_for_the_pruned_model(tiny_llama, patched, small_text, tmp_path, bits, targets, adapted):
    """Reloaded by stock peft on the pruned checkpoint, it gives the student's logits exactly; and it merges."""
    how = {"tokens": 512, "bits": bits, "targets": targets, "eval_every": 9}
    result = distil_tiny(tiny_llama, patched, small_text, tmp_path / "adapter", **how)
    document = result.to_json()
    assert document["method"] == "distill"
    assert document["own_tensors"] == [PATCHED]
    assert document["shared_prefix"] == (3 if targets == "after-cut" else 0)
    assert document["teacher"]["model"] == str(tiny_llama)
    assert len(document["adapted"]) == adapted
    _, student = _pair(tiny_llama, patched, bits)
    alone = load_frozen(Source(patched, "p"), bits=bits, device="cpu")
    ids = _batch()["input_ids"]
    with torch.no_grad():
        bare = alone(ids, use_cache=False).logits
        ours = PeftModel.from_pretrained(student, result.out)(ids, use_cache=False).logits
        theirs = PeftModel.from_pretrained(alone, result.out)(ids, use_cache=False).logits
    assert torch.equal(ours, theirs)
    assert not torch.equal(theirs, bare)
    merge_quietly(result.out, tmp_path / "merged", base="original")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.num_hidden_layers == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"plain_loss": 1.5}, "--plain-loss 1.5"),
        ({"match_hidden": -1.0}, "--match-hidden -1.0"),
        ({"teacher_data": "own"}, "--teacher-data own"),
        ({"prompts": "x.jsonl"}, "--prompts is for --teacher-data self"),
        ({"response_tokens": 0}, "--response-tokens 0"),
    ],
)
def test_settings_that_do_not_fit(tiny_llama, pruned, text, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        distil_tiny(tiny_llama, pruned, text, tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


def test_another_teacher_is_refused(tiny_llama, pruned, patched, text, tmp_path, sample_model):
    with pytest.raises(CheckpointError, match="is not the model that .* was cut from"):
        distil_tiny(sample_model, pruned, text, tmp_path / "out")
    other = changed_copy(tiny_llama, tmp_path / "other")
    for model in (pruned, patched):
        with pytest.raises(CheckpointError, match=r"tensors differ .* and no heal.json"):
            distil_tiny(other, model, text, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no prune_plan.json"):
        distil_tiny(tiny_llama, tiny_llama, text, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_healing_has_changed_is_told_by_heal_json(tiny_llama, patched, small_text, tmp_path):
    """A patch, an adapter merged into it: with the right teacher fine; with another, whatever differs is refused."""
    how = {"tokens": 256, "bits": 4, "targets": "after-cut"}
    adapter = distil_tiny(tiny_llama, patched, small_text, tmp_path / "adapter", **how)
    for base, changed in (("dequantised", 42), ("original", 15)):  # 7 projections a layer; 14 adapted, 1 patched
        merged = tmp_path / base
        merge_quietly(adapter.out, merged, base=base, compare_logits=False)
        own = own_tensors(trace(merged, tiny_llama), shown=False)
        assert len(own) == changed
        assert own.keys() <= healed_tensors(merged)
        assert PATCHED in own
    unhealed = {"dequantised": ("embed_tokens", "norm"), "original": ("norm", ".layers.0.self_attn.q_proj")}
    for base, names in unhealed.items():
        for name in names:
            other = changed_copy(tiny_llama, tmp_path / f"{base}-{name}", name)
            with pytest.raises(CheckpointError, match=f"differ .such as .*{name}.* and no heal.json"):
                own_tensors(trace(tmp_path / base, other), shown=False)
    shutil.copy(adapter.out / "heal.json", tmp_path / "original")
    with pytest.raises(CheckpointError, match="does not say which tensors healing changed"):
        own_tensors(trace(tmp_path / "original", tiny_llama), shown=False)


def test_where_the_cut_is(tiny_llama, pruned, tmp_path):
    assert first_after_cut(tiny_llama) is None
    assert first_after_cut(pruned) == 4
    twice = cut(plan_cut(pruned, layers=(1,)), tmp_path / "twice", show_progress=False)
    assert first_after_cut(twice) == 1
    last = cut(
        plan_cut(tiny_llama, layers=(6, 7), settings=CutSettings(allow_last=True)),
        tmp_path / "last",
        show_progress=False,
    )
    assert first_after_cut(last) == 6
    model = AutoModelForCausalLM.from_pretrained(last)
    with pytest.raises(UsageError, match="the cut took the last layers"):
        find_targets(model, "after-cut", cut=6)
    with pytest.raises(UsageError, match=r"no prune_plan.json"):
        find_targets(model, "after-cut")


@pytest.mark.slow  # test_qlora heals the sample model in each run of the tests
def test_the_sample_model_heals(sample_model, text, tmp_path):
    """Six of thirty layers cut, two thousand tokens of prose, adapters after the cut alone."""
    pruned = cut(plan_cut(sample_model, n=6, start=12), tmp_path / "pruned", show_progress=False)
    shape = {"length": 128, "accumulate": 1, "rank": 16, "learning_rate": 2e-3, "eval_every": 100}
    shape |= {"targets": "after-cut", "bits": 16, "checkpointing": False}
    result = distil_tiny(sample_model, pruned, text, tmp_path / "adapter", **shape)
    assert result.record.shared_prefix == 12
    assert result.after < result.before - 0.1
