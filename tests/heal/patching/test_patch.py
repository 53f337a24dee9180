"""The closed-form patch: exact where the answer is known, refused where there is no place for it, never for worse."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from heal import PatchSettings, TextSource, held_out_loss, patch, qlora
from heal.merging.adapter_only import refuse_layout
from heal.patching.evidence import Few, Parts
from heal.patching.least_squares import Sums, aim, massive, solve, solve_map
from heal.patching.places import find_place
from heal.patching.side_by_side import SideBySide
from heal.settings import PatchRun, TrainingRun
from heal.text.packing import pack
from prune import cut, plan_cut
from prune.checkpoint.source import locate
from prune.common.errors import CheckpointError, RegrowthError
from prune.cutting.plan import CutPlan
from prune.models.loading import decoder_layers
from tests.support.checkpoints import edit_config, same_weights, weights
from tests.support.commands import check_refused, succeed
from tests.support.commands import run as run_command
from tests.support.every_family import small_config
from tests.support.models import build, save_tiny, tiny


def sums_of(features, errors, weights, step=7):
    sums = Sums.empty(features.shape[1], errors.shape[1])
    for start in range(0, len(features), step):
        part = slice(start, start + step)
        sums.add(features[part], errors[part], weights[part])
    return sums


@st.composite
def problems(draw):
    """Tokens, features and outputs few enough to be solved directly; some tokens do not count."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    features, outputs = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    tokens = draw(st.integers(features + 2, 40))
    weights = rng.uniform(0.1, 3.0, tokens) * (rng.uniform(size=tokens) > 0.1)
    return [
        torch.from_numpy(a) for a in (rng.normal(size=(tokens, features)), rng.normal(size=(tokens, outputs)), weights)
    ]


@given(problems(), st.sampled_from([0.0, 1e-3, 0.5]))
@settings(deadline=None, max_examples=50)
def test_streamed_sums_give_the_solution_of_numpy_least_squares(problem, ridge):
    features, errors, weights = problem
    sums = sums_of(*problem)
    root = weights.sqrt().numpy()[:, None]
    left, right = features.numpy() * root, errors.numpy() * root
    pull = np.sqrt(ridge * np.mean(np.sum(left**2, 0)))
    stacked = np.vstack([left, pull * np.eye(left.shape[1])])
    expected = np.linalg.lstsq(stacked, np.vstack([right, np.zeros((left.shape[1], right.shape[1]))]), rcond=1e-10)[0].T
    found = solve(sums, ridge=ridge)
    assert np.allclose(found.numpy(), expected, atol=1e-6)
    residual = (weights[:, None] * (errors - features @ found.T) ** 2).sum() / (weights[:, None] * errors**2).sum()
    assert sums.left_over(found) == pytest.approx(float(residual), abs=1e-9)
    assert sums.tokens == int((weights > 0).sum())


@given(problems())
@settings(deadline=None, max_examples=30)
def test_a_map_of_the_output_is_solved_from_the_same_sums(problem):
    features, errors, weights = problem
    matrix = torch.from_numpy(np.random.default_rng(1).normal(size=(errors.shape[1], features.shape[1])))
    outputs = (features @ matrix.T * weights.sqrt()[:, None]).numpy()
    mapped = np.linalg.lstsq(outputs, (errors * weights.sqrt()[:, None]).numpy(), rcond=1e-6)[0].T
    found = solve_map(sums_of(*problem), matrix, ridge=0.0)
    assert np.allclose((features @ found.T).numpy(), features.numpy() @ matrix.numpy().T @ mapped.T, atol=1e-5)


def test_dependent_features_give_the_smallest_change():
    features = torch.randn(20, 3, dtype=torch.float64)
    doubled = torch.cat([features, features[:, :1]], 1)
    errors = torch.randn(20, 2, dtype=torch.float64)
    found = solve(sums_of(doubled, errors, torch.ones(20)), ridge=0.0)
    assert torch.allclose(found[:, 0], found[:, 3], atol=1e-8)
    assert torch.allclose(doubled @ found.T, features @ torch.linalg.lstsq(features, errors).solution, atol=1e-8)


def test_what_a_massive_token_counts():
    """Rows: an ordinary token, a massive one that the block made, and one that was massive before it."""
    state = torch.tensor([[3.0, 0.0], [0.0, 8.0], [700.0, 0.0]])
    target = torch.tensor([[3.0, 4.0], [600.0, 800.0], [600.0, 800.0]])
    of = {name: aim(state, target, name, 5.0) for name in ("normalised", "capped", "cosine")}
    for name, goal in (
        ("normalised", target),
        ("capped", torch.tensor([[3.0, 4.0], [30.0, 40.0], [420.0, 560.0]])),  # to 10 typical lengths, or its own
        ("cosine", torch.tensor([[1.8, 2.4], [4.8, 6.4], [420.0, 560.0]])),  # to its own
    ):
        errors, counts = of[name]
        assert torch.allclose(state + errors, goal, rtol=1e-5)
        assert torch.allclose(counts, 1 / goal.norm(dim=1) ** 2)
    assert massive(target, 5.0).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="no objective"):
        aim(state, target, "other", 5.0)


def test_the_share_of_massive_tokens_is_set_after_the_text_was_read():
    features, errors, seldom = torch.randn(30, 4).double(), torch.randn(30, 2).double(), torch.arange(30) < 3
    ones = torch.ones(30, dtype=torch.float64)
    parts = Parts(sums_of(features, errors, ones * ~seldom), Few([(features[:3], errors[:3], ones[:3])]))
    for share, count in ((None, 1.0), (0.5, 0.5 * 27 / 3)):
        whole, plain = parts.whole(share), sums_of(features, errors, torch.where(seldom, count, 1.0).double())
        assert torch.allclose(solve(whole, ridge=0.1), solve(plain, ridge=0.1), atol=1e-9)
        assert whole.energy == pytest.approx(plain.energy)
    none = Parts(parts.ordinary, Few())
    assert torch.equal(none.whole(0.5).gram, parts.ordinary.gram)


def rows_of(vocabulary, *, count=8, length=32):
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, vocabulary, size=rng.integers(8, 40)).tolist() for _ in range(4 * count)]
    return list(pack(documents, length, bos=1, eos=2))[:count]


def place_in(model, layer=0, vocabulary=90):
    ids = torch.randint(3, vocabulary, (1, 12), generator=torch.Generator().manual_seed(0))
    return find_place(model, decoder_layers(model), layer, ids)


def test_a_place_is_found_by_whole_float32_products(monkeypatch):
    """A GPU rounds float32 products to TF32 where its environment says so; 1e-3 would then be too fine."""
    precisions = []
    real = torch.nn.functional.linear

    def linear(x, *rest):
        precisions.append((x.dtype, torch.get_float32_matmul_precision()))
        return real(x, *rest)

    model = tiny("llama").bfloat16()
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    torch.set_float32_matmul_precision("high")
    try:
        assert place_in(model).path == "mlp.down_proj"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    ran, tried = precisions[: 3 * 7], precisions[3 * 7 :]
    assert set(ran) == {(torch.bfloat16, "high")}
    assert set(tried) == {(torch.float32, "highest")}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "phi", "gpt2"])
def test_a_change_of_the_projection_is_a_change_of_the_state_and_nothing_else(family):
    """Attention before the feed-forward part and beside it, with a bias and without, stored (out, in) and (in, out)."""
    model, rows = tiny(family).double(), rows_of(300)
    models = SideBySide(model, [1])
    place = place_in(model)
    change = 0.5 * torch.randn(place.matrix(models.layers).shape, dtype=torch.float64)
    held = list(models.hold(rows, place, 4))
    judged = models.loss(held, place, change)
    assert models.loss(held, place, None) == pytest.approx(models.mean_loss(rows, 4), abs=1e-6)
    models.changes[0] = (place, change)
    assert models.mean_loss(rows, 4) == pytest.approx(judged, abs=1e-6)
    models.changes.clear()
    place.write(models.layers, place.matrix(models.layers) + change)
    assert models.mean_loss(rows, 4) == pytest.approx(judged, abs=1e-6)
    assert abs(judged - models.loss(held, place, None)) > 1e-4


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2"])
@pytest.mark.parametrize("kind", ["matrix", "map"])
def test_a_block_that_is_a_linear_map_of_the_feed_forward_output_is_recovered(family, kind, monkeypatch):
    model, rows = tiny(family).double(), rows_of(300, count=24)
    models = SideBySide(model, [1])
    place = place_in(model)
    matrix = place.matrix(models.layers)
    planted = 0.3 * torch.randn(len(matrix), len(matrix), dtype=torch.float64)
    seen = []
    place.module(models.layers).register_forward_hook(lambda _module, _args, output: seen.append(output))

    def block(hidden, *_, **__):
        return hidden + (seen[-1] @ planted.T).view_as(hidden)

    monkeypatch.setattr(models.layers[1], "forward", block)
    sums = Sums.empty(matrix.shape[1], len(matrix))
    for row in rows:
        taken = models.take([row], place, 2)
        sums.add(taken.features, taken.target - taken.state, 1 / taken.target.norm(dim=1) ** 2)
    change = solve(sums, ridge=0.0) if kind == "matrix" else solve_map(sums, matrix, ridge=0.0)
    assert torch.allclose(change, planted @ matrix, atol=1e-7)
    assert sums.left_over(change) == pytest.approx(0, abs=1e-9)
    held = list(models.hold(rows, place, 8))
    assert models.loss(held, place, change) == pytest.approx(models.mean_loss(rows, 8, pruned=False), abs=1e-6)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gemma2", "post_feedforward_layernorm stands between mlp.down_proj and the residual stream"),
        ("gemma3_text", "post_feedforward_layernorm stands between"),
        ("olmo2", "post_feedforward_layernorm stands between"),
        ("glm4", "post_mlp_layernorm stands between"),
        ("mixtral", "mixture of experts"),
        ("qwen3_moe", "mixture of experts"),
    ],
)
def test_families_whose_path_forbids_a_fold_say_why(family, reason):
    with pytest.raises(RegrowthError, match=reason):
        place_in(build(small_config(family)), layer=1)


@pytest.mark.parametrize(
    ("family", "path", "scale"),
    [
        ("granite", "mlp.down_proj", 0.25),
        ("opt", "fc2", 1.0),
        ("falcon", "mlp.dense_4h_to_h", 1.0),
        ("cohere", "mlp.down_proj", 1.0),
        ("bloom", "mlp.dense_4h_to_h", 1.0),
        ("qwen3", "mlp.down_proj", 1.0),
    ],
)
def test_where_families_take_a_fold(family, path, scale):
    more = {"residual_multiplier": 0.25} if family == "granite" else {}
    place = place_in(build(small_config(family, **more)), layer=1)
    assert (place.path, place.scale) == (path, pytest.approx(scale))


def test_a_projection_that_two_layers_share_is_refused():
    model = tiny("llama")
    model.model.layers[2].mlp.down_proj.weight = model.model.layers[0].mlp.down_proj.weight
    with pytest.raises(RegrowthError, match=r"mlp\.down_proj is shared with another layer"):
        place_in(model)
    assert place_in(model, layer=1).path == "mlp.down_proj"


def test_a_model_without_positions_is_refused():
    with pytest.raises(RegrowthError, match="takes no positions"):
        SideBySide(tiny("bloom"), [1])


@pytest.fixture(scope="module")
def full(tmp_path_factory, sample_model):
    """A random Llama in float32 whose layers matter, with the sample's tokenizer."""
    shape = {"layers": 8, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "max_position_embeddings": 512}
    folder = tmp_path_factory.mktemp("full") / "full"
    return save_tiny(folder, sample_model, shards="500KB", **shape, initializer_range=0.2, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def pruned(full, tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "cut"
    return cut(plan_cut(full, layers="2-3,5", show_progress=False), out, show_progress=False)


@pytest.fixture(scope="module")
def options(sample_text, sample_heldout):
    return [
        "--text", str(sample_text), "--held-out", str(sample_heldout), "--held-out-tokens", "512", "--tokens", "2k",
        "--length", "64", "--device", "cpu",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def patched(full, pruned, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("patched") / "patched"
    done = succeed("heal", "patch", pruned, "--teacher", full, "--out", out, "--json", *options)
    assert json.loads(done.stdout) == json.loads((out / "heal.json").read_text())
    return out


def test_only_the_folded_tensors_differ_and_stock_transformers_loads_it(pruned, patched):
    before, after = weights(pruned), weights(patched)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    document = json.loads((patched / "heal.json").read_text())
    assert before.keys() == after.keys()
    assert changed == [name for fold in document["folds"] if fold["chosen"] for name in fold["tensors"]]
    assert [fold["layer"] for fold in document["folds"]] == [1, 4]  # of the source: one before each block
    for name in ("config.json", "prune_plan.json", "tokenizer.json", "model.safetensors.index.json"):
        assert (patched / name).read_bytes() == (pruned / name).read_bytes()
    assert AutoModelForCausalLM.from_pretrained(patched).config.num_hidden_layers == 5
    assert "Nothing was trained" in (patched / "README.md").read_text()


def test_the_losses_it_tells_are_those_of_the_checkpoints(full, pruned, patched, text):
    told = json.loads((patched / "heal.json").read_text())["held_out_loss"]
    for name, folder in (("full", full), ("before", pruned), ("after", patched)):
        assert told[name] == pytest.approx(held_out_loss(folder, text, length=64, device="cpu").loss, abs=1e-4)
    assert told["after"] < told["before"]


def test_the_same_seed_gives_the_same_patch(full, pruned, patched, text, tmp_path):
    run = PatchRun(tokens="2k", device="cpu", show_progress=False)
    patch(pruned, None, text, tmp_path / "b", settings=PatchSettings(length=64), run=run)
    assert same_weights(tmp_path / "b", patched)


def test_people_get_a_table(full, pruned, options, tmp_path):
    out = tmp_path / "p"
    done = succeed("heal", "patch", pruned, "--teacher", full, "--out", out, *options, "--ridge", "0.3")
    assert "candidates, loss on text apart in nats per token" in done.stdout
    assert "won back" in done.stdout
    tried = [found for fold in json.loads((out / "heal.json").read_text())["folds"] for found in fold["candidates"]]
    assert {found["ridge"] for found in tried} == {0.3}
    assert {found["kind"] for found in tried} == {"matrix", "map"}


def refused(model, teacher, options, tmp_path, *more):
    done = run_command("heal", "patch", model, "--teacher", teacher, "--out", tmp_path / "out", *options, *more)
    assert done.exit_code in (1, 2), done.output
    assert list(tmp_path.iterdir()) == []
    return done.exit_code, " ".join(done.stderr.split())


def test_what_is_no_cut_of_the_teacher_is_refused(full, pruned, patched, tiny_llama, options, tmp_path):
    code, line = refused(pruned, tiny_llama, options, tmp_path)
    assert code == 1
    assert "is not the model that" in line
    assert "prune_plan.json" in line
    assert "holds no prune_plan.json" in refused(full, full, options, tmp_path)[1]
    assert "it was healed since the cut" in refused(patched, full, options, tmp_path)[1]
    done = run_command("heal", "patch", pruned, "--teacher", full, "--out", patched, *options)
    check_refused(done, 1, "already exists")


def test_a_full_model_whose_config_cannot_be_read_is_named(tiny_llama, options, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    odd = shutil.copytree(tiny_llama, folder / "odd")
    edit_config(odd, rope_parameters=5)
    model = cut(plan_cut(odd, layers="2", show_progress=False), folder / "c", show_progress=False)
    line = "odd: transformers cannot read its config.json"
    assert line in refused(model, odd, options, tmp_path)[1]
    with pytest.raises(CheckpointError, match=line):
        refuse_layout(locate(odd), locate(model), CutPlan.read(model / "prune_plan.json"))
    with pytest.raises(CheckpointError, match="c: transformers cannot read its config.json"):
        qlora(model, options[1], tmp_path / "out", run=TrainingRun(tokens="60k", device="cpu", show_progress=False))


def test_a_cut_at_the_first_layer_takes_no_fold(full, options, tmp_path, tmp_path_factory):
    model = cut(
        plan_cut(full, layers="0-1", show_progress=False), tmp_path_factory.mktemp("c") / "c", show_progress=False
    )
    assert "no layer stands before the cut" in refused(model, full, options, tmp_path)[1]


def test_too_little_held_out_text_is_an_error(full, pruned, options, tmp_path, tmp_path_factory):
    short = tmp_path_factory.mktemp("text") / "short.jsonl"
    short.write_text('{"text": "A few words that are more than eight tokens, but not many more."}\n')
    assert "--held-out" in refused(pruned, full, options, tmp_path, "--held-out", str(short))[1]
    others = options[options.index("--held-out") :]  # a second --text would be mixed in
    assert "ends after" in refused(pruned, full, ["--text", str(short), *others], tmp_path)[1]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--objective", "other"], "--objective other is unknown"),
        (["--kind", "other"], "--kind other is unknown"),
        (["--ridge", "-1"], "--ridge -1.0 is not at least 0"),
        (["--seed", "-1"], "--seed -1 is not between 0 and"),
        (["--tokens", "5"], "--tokens 5 is less than one row of"),
        (["--length", "4"], "--length 4 is too small"),
        (["--length", "1024"], "beyond the 512 tokens"),
    ],
)
def test_wrong_usage(full, pruned, options, tmp_path, more, line):
    code, said = refused(pruned, full, options, tmp_path, *more)
    assert (code, line in said) == (2, True), said


def test_the_tokens_that_are_advised_are_there(tmp_path):
    from heal.patching.patch import _check_enough, _spare

    for found in range(2, 120):
        with pytest.raises(RegrowthError, match="ends after") as caught:
            _check_enough(TextSource("a.txt"), found, 1000, 64)
        advised = int(str(caught.value).rpartition("--tokens ")[2].split()[0]) // 64
        _check_enough(TextSource("a.txt"), found, advised, 64)  # enough
        assert advised + 1 + _spare(advised + 1, 64) > found  # and no more would be
    with pytest.raises(RegrowthError, match="add text, or lower --length"):
        _check_enough(TextSource("a.txt"), 1, 10, 64)


def test_a_patch_that_is_no_better_than_none_is_refused_with_the_figures(full, options, tmp_path, tmp_path_factory):
    """The dropped layer did nothing, so nothing can be won back."""
    base = tmp_path_factory.mktemp("idle")
    model = AutoModelForCausalLM.from_pretrained(full)
    with torch.no_grad():
        model.model.layers[3].self_attn.o_proj.weight.zero_()
        model.model.layers[3].mlp.down_proj.weight.zero_()
    model.save_pretrained(base / "full")
    AutoTokenizer.from_pretrained(full).save_pretrained(base / "full")
    idle = cut(plan_cut(base / "full", layers="3", show_progress=False), base / "cut", show_progress=False)
    code, line = refused(idle, base / "full", options, tmp_path)
    assert code == 1
    assert "no patch is better than none, so nothing is written" in line
    assert "nats per token" in line


def test_a_real_cut_is_won_back_in_part(sample_model, small_text, tmp_path):
    """Block of 8 of 30 at layer 9, which makes the massive state of the first token."""
    model = cut(plan_cut(sample_model, n=8, start=9, show_progress=False), tmp_path / "cut", show_progress=False)
    settings = PatchSettings(objective="capped", kind="matrix", ridge=0.3, length=256)
    run = PatchRun(tokens="1k", device="cpu", dtype="fast", show_progress=False)
    patched = patch(model, sample_model, small_text, tmp_path / "patched", settings=settings, run=run)
    assert patched.record.won_back > 0.25
