"""A patch of a model that does not fit: solved and judged layer by layer, to the patch of the loaded one."""

import json

import pytest
import torch

from heal import PatchSettings, patch
from heal.patching.evidence import Evidence, Taken
from heal.patching.least_squares import Sums, aim, massive, solve
from heal.settings import PatchRun
from prune import cut, plan_cut
from prune.models.walks.layerwise import Layerwise
from tests.support.checkpoints import weights
from tests.support.commands import check_refused, run, succeed
from tests.support.models import save_tiny

SHAPE = {"layers": 8, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "max_position_embeddings": 512}


def cut_of(folder, sample_model, family="llama", **changes):
    """A random model whose layers matter, and the same without layers 2, 3 and 5."""
    full = save_tiny(folder / "full", sample_model, family, shards="500KB", **SHAPE, initializer_range=0.2, **changes)
    return full, cut(plan_cut(full, layers="2-3,5", show_progress=False), folder / "cut", show_progress=False)


def patched(model, text, out, *, cap=None, tokens="2k", dtype="float32", **settings):
    run = PatchRun(tokens=tokens, device="cpu", dtype=dtype, show_progress=False, max_memory=cap)
    return patch(model, None, text, out, settings=PatchSettings(**{"length": 64, **settings}), run=run).record


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "gpt2"])
def test_it_is_the_patch_of_the_loaded_model(family, sample_model, small_text, tmp_path, monkeypatch):
    _, model = cut_of(tmp_path, sample_model, family)
    monkeypatch.setattr("heal.patching.patch._refuse_worse", lambda _: None)  # random models may win nothing back
    whole = patched(model, small_text, tmp_path / "whole")
    monkeypatch.setattr("heal.patching.patch.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    parts = patched(model, small_text, tmp_path / "parts", cap=50_000)
    for name in ("full", "before", "after"):
        assert getattr(parts.held_out_loss, name) == pytest.approx(getattr(whole.held_out_loss, name), abs=1e-4)
    assert len(parts.folds) == len(whole.folds) == 2
    for ours, theirs in zip(parts.folds, whole.folds, strict=True):
        assert (ours.layer, ours.module, ours.scale, ours.tensors) == (
            theirs.layer, theirs.module, theirs.scale, theirs.tensors,
        )  # fmt: skip
        assert ours.loss_without == pytest.approx(theirs.loss_without, abs=1e-4)
        assert len(ours.candidates) == len(theirs.candidates) > 4
        for one, other in zip(ours.candidates, theirs.candidates, strict=True):
            assert (one.kind, one.objective, one.ridge, one.share) == (
                other.kind, other.objective, other.ridge, other.share,
            )  # fmt: skip
            assert one.loss == pytest.approx(other.loss, abs=1e-4)
            assert one.left_over == pytest.approx(other.left_over, abs=1e-4)
    a, b = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in b)


def test_what_is_written_is_the_files_own_weight_and_the_change(sample_model, small_text, tmp_path):
    """In 16 bits the weight that the model is run with is not the one of the files."""
    _, model = cut_of(tmp_path, sample_model)
    record = patched(model, small_text, tmp_path / "out", dtype="bfloat16", ridge=1e6, kind="matrix")
    before, after = weights(model), weights(tmp_path / "out")
    names = [name for fold in record.folds if fold.chosen for name in fold.tensors]
    assert names
    for name in names:
        apart = (after[name] - before[name]).abs().max()
        assert 0 < apart < 1e-4
        assert apart < (before[name].bfloat16().float() - before[name]).abs().max() / 10


def test_one_layer_has_weights_at_a_time(sample_model, small_text, tmp_path, monkeypatch):
    full, model = cut_of(tmp_path, sample_model)
    held, run_one = [], Layerwise.run

    def counted(self, *args):
        held.append(sum(p.nbytes for p in self.model.parameters() if not p.is_meta))
        return run_one(self, *args)

    monkeypatch.setattr(Layerwise, "run", counted)
    patched(model, small_text, tmp_path / "out", cap=50_000, objective="capped", kind="matrix", ridge=0.3)
    stored = weights(full)
    layer = sum(value.nbytes for name, value in stored.items() if ".layers.0." in name)
    assert max(held) == layer + stored["model.norm.weight"].nbytes


def test_sums_of_one_objective_are_held_at_a_time(monkeypatch):
    """And a candidate takes two matrices of F x F: the sums, and the copy that is factored in its own memory."""
    generator = torch.Generator().manual_seed(0)
    taken = [Taken(*(torch.randn(40, width, generator=generator) for width in (96, 8, 8))) for _ in range(5)]
    for part in taken:
        part.target[0] *= 100  # massive
    evidence = Evidence(taken, scale=0.5)
    alive, most = set(), [0]
    real = torch.Tensor.clone

    def counted(values):
        copied = real(values)
        if copied.shape == (96, 96):
            alive.add(copied.data_ptr())
            most[0] = max(most[0], len(alive))
        return copied

    sums = {}
    for objective in ("capped", "normalised", "cosine", "capped"):
        parts = evidence.parts(objective)
        sums[objective] = parts.ordinary
        assert evidence._last == (objective, parts)
        for ridge, share in ((0.3, 0.3), (0.03, None)):
            with monkeypatch.context() as patching:
                patching.setattr(torch.Tensor, "clone", counted)
                change, left = parts.solved(torch.randn(8, 96).double(), "matrix", ridge, share)
            alive.clear()
            plain = plain_sums(taken, objective, share, 0.5)
            assert torch.allclose(change, solve(plain, ridge=ridge), atol=1e-6)
            assert left == pytest.approx(plain.left_over(change), abs=1e-6)
    assert most[0] <= 2


def plain_sums(taken, objective, share, scale):
    """All tokens at once, as the formula says."""
    typical = float(taken[0].target.norm(dim=1).median())
    features, state, target = (torch.cat([getattr(t, n) for t in taken]) for n in ("features", "state", "target"))
    apart = massive(target, typical)
    errors, counts = aim(state, target, objective, typical)
    factor = 1.0 if share is None else share * int((~apart).sum()) / int(apart.sum())
    sums = Sums.empty(features.shape[1], errors.shape[1])
    sums.add(features, errors / scale, torch.where(apart, factor * counts, counts))
    return sums


def test_a_gram_without_a_factor_is_solved_all_the_same():
    features = torch.zeros(10, 4)
    features[:, 0] = 1e-30
    sums = Sums.empty(4, 2)
    sums.add(features, torch.ones(10, 2), torch.ones(10))
    assert solve(sums, ridge=0.3).isfinite().all()


@pytest.mark.slow
def test_a_cap_has_the_sample_model_patched_from_its_files(sample_model, small_text, tmp_path):
    model = cut(plan_cut(sample_model, n=8, start=9, show_progress=False), tmp_path / "cut", show_progress=False)
    how = {"objective": "capped", "kind": "matrix", "ridge": 0.3, "length": 128, "tokens": "256"}
    whole, parts = (patched(model, small_text, tmp_path / str(cap), cap=cap, **how) for cap in (None, 300 << 20))
    assert parts.won_back == pytest.approx(whole.won_back, abs=1e-4)
    for name in ("full", "before", "after"):
        assert getattr(parts.held_out_loss, name) == pytest.approx(getattr(whole.held_out_loss, name), abs=1e-4)


def test_the_command_says_in_one_line_that_it_streams(sample_model, sample_text, sample_heldout, tmp_path):
    _, model = cut_of(tmp_path, sample_model)
    text = ["--text", sample_text, "--held-out", sample_heldout, "--held-out-tokens", "128", "--length", "64"]
    command = ["heal", "patch", model, "--out", tmp_path / "out", *text, "--tokens", "1k", "--ridge", "0.3"]
    check_refused(run(*command, "--max-memory", "much"), 2, "--max-memory much: write a size such as 4GiB")
    done = succeed(*command, "--max-memory", "50KB", "--json")
    assert sum("layer by layer" in line for line in done.stderr.splitlines()) == 1
    assert json.loads(done.stdout)["folds"]
