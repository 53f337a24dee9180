"""Packed rows without asking the device: places of labels, bounds of documents, FlashAttention's kernels for them."""

import numpy as np
import pytest
import torch
from transformers import masking_utils

from heal.models.divergence import chunked_divergence, state_distance
from heal.models.held_out import summed_loss
from heal.models.lm_head import attach_loss
from heal.models.losses import chunked_cross_entropy, labelled
from heal.models.packed import check_documents, told_of_documents
from heal.text.packing import IGNORED, collate_for_loss, pack
from prune.common.errors import RegrowthError, UsageError
from prune.models import attention
from prune.models.attention import check_attention
from tests.support.models import tiny
from tests.support.stub_flash import StubFlash


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    documents = [draw.integers(3, 290, size).tolist() for size in (5, 30, 9, 14, 40, 22, 3)]
    return list(pack(documents, 24, bos=1, eos=2, keep_last=True))


def test_places_and_bounds_are_those_that_a_device_would_find(rows):
    batch = collate_for_loss(rows)
    flat = batch["labels"].reshape(-1)
    length = rows[0].tokens.size
    predicted = [p for p in range(flat.numel()) if (p + 1) % length and flat[p + 1] != IGNORED]
    assert batch["places"].tolist() == predicted
    starts = batch["bounds"].tolist()
    assert starts[-1] == flat.numel()
    assert starts[:-1] == (batch["position_ids"].reshape(-1) == 0).nonzero().squeeze(-1).tolist()
    states = torch.randn(*batch["labels"].shape, 8)
    for told, found in zip(
        labelled(states, batch["labels"], batch["places"]), labelled(states, batch["labels"]), strict=True
    ):
        assert torch.equal(told, found)
    kept = batch["labels"][:, 1:] != IGNORED  # as torch selects them
    assert torch.equal(labelled(states, batch["labels"])[0], states[:, :-1][kept])


def test_losses_are_the_same_bits_with_and_without_places(rows):
    batch = collate_for_loss(rows)
    torch.manual_seed(0)
    head, teacher = torch.randn(300, 8), torch.randn(*batch["labels"].shape, 8)
    results = []
    for places in (None, batch["places"]):
        student = torch.randn(*teacher.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        how = {"vocabulary": 300, "places": places}
        total = chunked_cross_entropy(student, batch["labels"], lambda s: s @ head.T, **how)
        how |= {"teacher_project": None, "temperature": 1.0, "plain": 0.0}
        total = total + chunked_divergence(student, teacher, batch["labels"], lambda s: s @ head.T, **how)
        total = total + state_distance(student, teacher, batch["labels"], places)
        results.append((total.detach(), *torch.autograd.grad(total, student)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("count", [1, 8])
def test_the_device_is_not_asked_whether_rows_hold_several_documents(rows, count, monkeypatch):
    batch = collate_for_loss(list(pack([list(range(3, 290))], 24, bos=1, eos=2))[:3] if count == 1 else rows)
    usual = masking_utils.find_packed_sequence_indices
    wanted = usual(batch["position_ids"])
    assert (wanted is None) == (count == 1)
    with told_of_documents(len(batch["input_ids"]), batch["bounds"]):
        monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: pytest.fail("the device was asked"))
        found = masking_utils.find_packed_sequence_indices(batch["position_ids"])
        monkeypatch.undo()
    assert masking_utils.find_packed_sequence_indices is usual
    assert found is wanted is None or torch.equal(found, wanted)


def test_flash_attention_keeps_documents_apart(rows):
    batch, results = collate_for_loss(rows), []
    stub = StubFlash()
    for model in (tiny("llama"), stub.use(tiny("llama"))):
        check_documents(model)
        results.append([summed_loss(model, rows)])
        attach_loss(model)
        model.get_input_embeddings().weight.requires_grad_(True)
        loss = model(**batch)["loss"]
        results[-1] += [loss.item(), *torch.autograd.grad(loss, model.get_input_embeddings().weight)]
    assert stub.calls > 0
    (plain, loss, slope), (flash, other, steep) = results
    assert flash == pytest.approx(plain, rel=1e-5)
    assert other == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(slope, steep, atol=1e-6)


def test_a_family_that_does_not_hand_bounds_on_is_refused():
    stub = StubFlash()
    model = stub.use(tiny("llama"))
    check_documents(model)
    stub.deaf = True
    with pytest.raises(
        RegrowthError, match="does not keep packed documents apart with --attention stub_flash: .*% off"
    ):
        check_documents(model)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "says"),
    [
        ("flash", "cuda", "bfloat16", "--attention flash is unknown; use auto, sdpa, eager"),
        ("flash_attention_2", "cpu", "bfloat16", "runs on a GPU alone, and this is cpu"),
        ("flash_attention_3", "cuda:1", "bfloat16", "not installed: pip install flash-attn-3"),
        ("kernels-community/flash-attn3", "cuda", "bfloat16", "not installed: pip install kernels"),
    ],
)
def test_attention_that_cannot_run_is_one_line(name, device, dtype, says):
    with pytest.raises(UsageError, match=says):
        check_attention(name, device=device, dtype=dtype)


def test_flash_attention_is_refused_in_float32_and_taken_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(attention, "find_spec", lambda module: object())
    check_attention("flash_attention_2", device="cuda", dtype="bfloat16")
    with pytest.raises(UsageError, match="does not multiply float32"):
        check_attention("flash_attention_2", device="cuda", dtype="float32")
    for name in ("auto", "sdpa", "eager"):
        check_attention(name, device="cpu", dtype="float32")
