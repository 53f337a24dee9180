"""Bytes that a loaded model holds, against its config's arithmetic."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from prune.models.held import held_cache_bytes, held_weight_bytes, tensors_in
from prune.models.whole import quantisation
from tests.support.models import save_tiny, tiny


def filled(model, tokens, rows=1):
    cache = DynamicCache(config=model.config)
    model(torch.randint(3, 200, (rows, tokens)), past_key_values=cache)
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_once(dtype, tied):
    model = tiny("llama", tie_word_embeddings=tied).to(dtype)
    hidden, inner, heads, pairs = 64, 128, 4, 2
    attention = 2 * hidden * heads * 16 + 2 * hidden * pairs * 16
    layer = attention + 3 * hidden * inner + 2 * hidden
    values = 3 * layer + hidden + 300 * hidden * (1 if tied else 2)
    assert held_weight_bytes(model) == values * dtype.itemsize


def test_a_buffer_counts_where_a_checkpoint_has_it():
    module = torch.nn.Module()
    module.register_buffer("stored", torch.zeros(3))
    module.register_buffer("computed", torch.zeros(100), persistent=False)
    assert held_weight_bytes(module) == 12


def test_packed_weights_count_with_their_scales(tmp_path, sample_model):
    """NF4: half a byte a value, a scale in 8 bits for 64 of them, one in 32 for 256 scales, two code books."""
    folder = save_tiny(tmp_path / "model", sample_model, layers=2)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    packed = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation(torch.float32))
    linear = [weight.numel() for name, weight in plain.named_parameters() if "proj" in name]
    others = sum(weight.numel() for name, weight in plain.named_parameters() if "proj" not in name)
    scales = [-(-count // 64) for count in linear]
    books = 4 * (16 + 256)
    packs = sum(n // 2 + s + 4 * -(-s // 256) + books for n, s in zip(linear, scales, strict=True))
    assert held_weight_bytes(packed) == packs + 4 * others


@pytest.mark.parametrize("rows", [1, 3])
def test_a_cache_holds_keys_and_values_of_every_layer(rows):
    model = tiny("llama", layers=4)
    assert held_cache_bytes(filled(model, 10, rows)) == rows * 10 * 4 * 2 * 2 * 16 * 4  # layers, both, heads, width


def test_a_window_bounds_what_its_layers_hold():
    model = tiny("gemma2", layers=4, sliding_window=8, head_dim=16, num_key_value_heads=2)
    a_token = 2 * 2 * 16 * 4
    kept = held_cache_bytes(filled(model, 50))
    assert kept == 2 * 50 * a_token + 2 * 7 * a_token  # every other layer; of a window, the next token is a part


def test_tensors_are_found_wherever_they_stand():
    class Holder:
        def __init__(self):
            self.own, self.more, self.me = torch.zeros(1), {"a": [torch.zeros(2), (torch.zeros(3),)]}, self

    assert sorted(tensor.numel() for tensor in tensors_in(Holder())) == [1, 2, 3]
    assert list(tensors_in(None)) == []
