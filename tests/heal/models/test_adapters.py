"""Which projections get an adapter, family by family, and the loss that a model made ready for healing returns."""

import pytest
import torch

from heal.models.adapters import adapter_dtype, add_adapter, compute_in, load_adapter, save_adapter
from heal.models.lm_head import attach_loss
from heal.models.losses import chunked_cross_entropy
from heal.models.targets import find_targets
from prune.common.errors import RegrowthError, UsageError
from tests.support.checkpoints import weights
from tests.support.models import FAMILIES, tiny

GATED = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}
EXPECTED = {
    "llama": (GATED, ATTENTION),
    "qwen2": (GATED, ATTENTION),
    "gemma2": (GATED, ATTENTION),
    "gpt_neox": (
        {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
        {"attention.query_key_value", "attention.dense"},
    ),
    "phi": ({"mlp.fc1", "mlp.fc2"}, {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense"}),
    "gpt2": ({"mlp.c_fc", "mlp.c_proj"}, {"attn.c_attn", "attn.c_proj"}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_by_role(family):
    feed_forward, attention = EXPECTED[family]
    model = tiny(family)
    found = find_targets(model, "feed-forward")
    assert set(found.paths) == feed_forward
    assert len(found.modules) == 3 * len(feed_forward)
    assert set(find_targets(model, "all").paths) == feed_forward | attention
    assert not any("lm_head" in name or "embed_out" in name for name in find_targets(model, "all").modules)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_sits_where_planned_and_changes_nothing_at_first(family):
    model = tiny(family)
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        targets = find_targets(model, "feed-forward")
        adapted = add_adapter(model, targets, rank=4, alpha=4, dropout=0.0, base="somewhere").eval()
        assert torch.equal(adapted(input_ids=ids).logits, before)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(targets.modules)
    assert all(parameter.dtype == torch.float32 for parameter in adapted.parameters() if parameter.requires_grad)


def gradients_of(model, compute):
    """Loss and gradients of an adapter that computes in a dtype, of the same random weights every time."""
    adapted = add_adapter(model, find_targets(model, "all"), rank=4, alpha=8, dropout=0.1, base="x")
    torch.manual_seed(3)
    for weight in adapted.parameters():
        if weight.requires_grad:
            weight.data.normal_(std=0.05)
    compute_in(adapted, compute)
    torch.manual_seed(4)  # of dropout
    adapted.train()
    ids = torch.arange(3, 35).reshape(2, 16)
    loss = adapted(input_ids=ids, labels=ids).loss
    loss.backward()
    trained = {name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad}
    return adapted, loss.item(), trained


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_adapter_in_bfloat16_has_the_gradients_of_one_in_float32_and_its_weights(family, dtype, tmp_path):
    (plain, loss, wanted), (narrow, near, found) = (
        gradients_of(tiny(family).to(dtype), compute) for compute in (torch.float32, torch.bfloat16)
    )
    assert near == pytest.approx(loss, rel=1e-2)
    assert list(found) == list(wanted)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), wanted[name].flatten(), dim=0) > 0.98
    assert not all(torch.equal(gradient, wanted[name]) for name, gradient in found.items())
    save_adapter(narrow, tmp_path)
    saved = weights(tmp_path)
    assert saved
    assert all(weight.dtype == torch.float32 for weight in saved.values())
    load_adapter(plain, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), narrow.parameters(), strict=True))


def test_what_an_adapter_computes_in(monkeypatch):
    assert adapter_dtype("auto", device="cpu", compute=torch.bfloat16) == torch.float32
    assert adapter_dtype("bfloat16", device="cpu", compute=torch.float32) == torch.bfloat16
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("heal.models.adapters.multiplies_bfloat16", lambda device, native=native: native)
        assert adapter_dtype("auto", device="cuda", compute=torch.bfloat16) == dtype
        assert adapter_dtype("auto", device="cuda", compute=torch.float32) == torch.float32
        assert adapter_dtype("float32", device="cuda", compute=torch.bfloat16) == torch.float32


def test_bad_targets_ranks_and_dropouts_are_refused():
    model = tiny("llama")
    with pytest.raises(UsageError, match="--targets attention is unknown"):
        find_targets(model, "attention")
    targets = find_targets(model, "feed-forward")
    assert targets.smallest == 64
    for rank in (65, 0):
        with pytest.raises(UsageError, match=f"--rank {rank} does not fit: .* side of 64"):
            add_adapter(model, targets, rank=rank, alpha=1, dropout=0, base="x")
    with pytest.raises(UsageError, match=r"--dropout 1\.0"):
        add_adapter(model, targets, rank=4, alpha=1, dropout=1.0, base="x")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_in_pieces_is_the_models_own_gradients_included(family):
    labels = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(1))
    ids = labels.clone()
    labels[0, :5] = -100
    results = []
    for attached in (False, True):
        model = tiny(family)
        if attached:
            attach_loss(model)
        adapted = add_adapter(model, find_targets(model, "feed-forward"), rank=4, alpha=8, dropout=0.0, base="x")
        torch.manual_seed(3)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.05)
        loss = adapted(input_ids=ids, labels=labels)["loss"]
        loss.backward()
        gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
        results.append((loss.detach(), gradients))
    (own, own_gradients), (ours, our_gradients) = results
    assert torch.allclose(own, ours, rtol=1e-5, atol=1e-6)
    for a, b in zip(own_gradients, our_gradients, strict=True):
        assert a.abs().max() > 0
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def test_the_pieces_add_up_whatever_their_size():
    torch.manual_seed(0)
    head = torch.randn(50, 8)
    hidden = torch.randn(2, 400, 8, requires_grad=True)
    labels = torch.randint(0, 50, (2, 400))
    whole = torch.nn.functional.cross_entropy(
        (hidden[:, :-1] @ head.T).reshape(-1, 50), labels[:, 1:].reshape(-1), reduction="sum"
    )
    (expected,) = torch.autograd.grad(whole, hidden)
    for vocabulary in (1 << 26, 1 << 19, 50):  # pieces of 64, of 128, and one
        loss = chunked_cross_entropy(hidden, labels, lambda states: states @ head.T, vocabulary=vocabulary)
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert torch.allclose(loss, whole, rtol=1e-5)
        assert torch.allclose(gradient, expected, atol=1e-5)


def test_a_model_that_makes_its_logits_otherwise_is_refused():
    model = tiny("llama")
    model.config.logit_scale = 0.5  # a factor that this model does not apply
    with pytest.raises(RegrowthError, match="LlamaForCausalLM does not make its logits"):
        attach_loss(model)
