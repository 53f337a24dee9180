"""Fused kernels are taken where they compute what the plain model does, in every tree, and are taken back."""

import pytest
import torch
from transformers.models.llama import modeling_llama

from heal.models.kernels import check_kernels, fuse, liger_runs
from heal.models.student import build_student
from prune.common.errors import RegrowthError, UsageError
from tests.support.healing import distil_tiny, heal_tiny
from tests.support.models import tiny
from tests.support.stub_liger import put_in

PLAIN = modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm


def restored(*models):
    """Whether nothing of Liger is left in transformers' module and in the models."""
    parts = [module for model in models for module in model.modules()]
    left = [part for part in parts if {"forward", "offset"} & set(vars(part))]
    return (modeling_llama.apply_rotary_pos_emb, modeling_llama.LlamaRMSNorm) == PLAIN and not left


def test_it_is_taken_and_taken_back(monkeypatch):
    stub, model = put_in(monkeypatch), tiny("llama")
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        kernels = fuse([model], "auto", "cpu")
        assert (kernels.name, kernels.note) == ("liger", "")
        assert stub.options == {
            "rope": True, "rms_norm": True, "layer_norm": True, "swiglu": True, "geglu": True,
            "cross_entropy": False, "fused_linear_cross_entropy": False,
        }  # fmt: skip
        stub.norms = stub.rotations = 0
        assert torch.allclose(model(input_ids=ids).logits, plain, atol=1e-5)
        assert (stub.norms, stub.rotations) == (6, 3)
        assert not restored(model)
        kernels.release()
        assert restored(model)
        assert torch.equal(model(input_ids=ids).logits, plain)
        assert (stub.norms, stub.rotations) == (6, 3)


def test_both_trees_over_one_copy_of_the_weights_are_fused(monkeypatch):
    stub, full = put_in(monkeypatch), tiny("llama", layers=4)
    student = build_student(full, tiny("llama", layers=3).config, (0, 1, 3), {})
    kernels = fuse([full, student], "auto", "cpu")
    assert [model is fused for model, fused in zip((full, student), stub.fused, strict=True)] == [True, True]
    ids = torch.arange(3, 19)[None]
    for model, layers in ((full, 4), (student, 3)):
        stub.norms = 0
        with torch.no_grad():
            model(input_ids=ids)
        assert stub.norms == 2 * layers
    kernels.release()
    assert restored(full, student)


@pytest.mark.parametrize(
    ("wrong", "says"), [("norm", "nats from the plain model's"), ("backward", "its gradient .*% off")]
)
def test_what_computes_something_else_is_left_out_or_an_error(monkeypatch, wrong, says):
    put_in(monkeypatch, wrong)
    model = tiny("llama")
    kernels = fuse([model], "auto", "cpu")
    assert kernels.name is None
    assert kernels.note.startswith("liger-kernel is left out: its predictions are")
    assert restored(model)
    with pytest.raises(RegrowthError, match=f"--kernels liger: .*{says}.*; use --kernels none"):
        fuse([model], "liger", "cpu")
    assert restored(model)


def test_a_family_that_it_does_not_know_stays_as_it_is(monkeypatch):
    put_in(monkeypatch)
    assert fuse([tiny("phi")], "auto", "cpu").note == "liger-kernel is left out: it has no kernels for phi"


def test_a_kernel_that_does_not_compile_is_a_note(monkeypatch):
    stub, model = put_in(monkeypatch), tiny("llama")

    def fails(*_):
        raise ValueError("no such instruction\nfar below")

    monkeypatch.setattr(stub, "_norm", fails)
    assert fuse([model], "auto", "cpu").note == "liger-kernel is left out: ValueError: no such instruction"
    assert restored(model)


def test_without_it_or_without_a_gpu_nothing_is_tried():
    assert not liger_runs("cpu")
    kernels = fuse([], "auto", "cpu")
    assert (kernels.name, kernels.note) == (None, "")
    with pytest.raises(UsageError, match="--kernels liger: liger-kernel .*--kernels auto"):
        check_kernels("liger", "cpu")
    check_kernels("auto", "cpu")


def test_heals_take_it_and_say_so(monkeypatch, tiny_llama, shallow_llama, pruned, small_text, tmp_path):
    stub = put_in(monkeypatch)
    plain = heal_tiny(shallow_llama, small_text, tmp_path / "plain", tokens=512, kernels="none")
    assert not stub.fused
    fused = heal_tiny(shallow_llama, small_text, tmp_path / "fused", tokens=512)
    assert (plain.record.kernels, fused.record.kernels) == (None, "liger")
    assert fused.after == pytest.approx(plain.after, abs=1e-4)
    distilled = distil_tiny(tiny_llama, pruned, small_text, tmp_path / "distilled", tokens=512)
    assert distilled.record.kernels == "liger"
    assert len(stub.fused) == 3  # the student alone, then both trees
    assert restored()
