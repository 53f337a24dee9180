"""Bytes that a loaded model holds, against its config's arithmetic."""

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from prune.models.loading import cache_argument
from prune.models.memory.held import held_cache_bytes, held_weight_bytes
from prune.models.memory.kv_cache import cache_bytes, layer_caches
from prune.models.memory.skeleton import skeleton
from prune.models.memory.weights import loaded_weights
from prune.models.nf4 import quantisation
from tests.support.models import save_tiny, tiny

FREQUENCIES = 2 * 8  # values of the rotary table of a head of 16, which transformers keeps twice


def filled(model, tokens, rows=1):
    cache = DynamicCache(config=model.config)
    model(torch.randint(3, 200, (rows, tokens)), **{cache_argument(model): cache})
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted_once(dtype, tied):
    model = tiny("llama", tie_word_embeddings=tied).to(dtype)
    hidden, inner, heads, pairs = 64, 128, 4, 2
    attention = 2 * hidden * heads * 16 + 2 * hidden * pairs * 16
    layer = attention + 3 * hidden * inner + 2 * hidden
    values = 3 * layer + hidden + 300 * hidden * (1 if tied else 2)
    assert held_weight_bytes(model) == (values + FREQUENCIES) * dtype.itemsize


@pytest.fixture(scope="module")
def nf4(tmp_path_factory, sample_model):
    """A model, and the same one in NF4."""
    folder = save_tiny(tmp_path_factory.mktemp("nf4") / "model", sample_model, layers=2)
    packed = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantisation(torch.float32))
    return AutoModelForCausalLM.from_pretrained(folder), packed


def test_packed_weights_count_with_their_scales(nf4):
    """NF4: half a byte a value, a scale in 8 bits for 64 of them, one in 32 for 256 scales, two code books, a mean."""
    plain, packed = nf4
    linear = [weight.numel() for name, weight in plain.named_parameters() if "proj" in name]
    others = sum(weight.numel() for name, weight in plain.named_parameters() if "proj" not in name)
    scales = [-(-count // 64) for count in linear]
    books = 4 * (16 + 256 + 1)
    packs = sum(n // 2 + s + 4 * -(-s // 256) + books for n, s in zip(linear, scales, strict=True))
    assert held_weight_bytes(packed) == packs + 4 * (others + FREQUENCIES)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_cache_holds_keys_and_values_of_every_layer(rows):
    model = tiny("llama", layers=4)
    assert held_cache_bytes(filled(model, 10, rows)) == rows * 10 * 4 * 2 * 2 * 16 * 4  # layers, both, heads, width


def test_a_window_bounds_what_its_layers_hold():
    model = tiny("gemma2", layers=4, sliding_window=8, head_dim=16, num_key_value_heads=2)
    a_token = 2 * 2 * 16 * 4
    kept = held_cache_bytes(filled(model, 50))
    assert kept == 2 * 50 * a_token + 2 * 7 * a_token  # every other layer; of a window, the next token is a part


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_holds_what_was_told_before_it_was_loaded(family):
    model = tiny(family, layers=4)
    empty = skeleton(model.config, torch.float32, family)
    told = loaded_weights(empty, 16)
    assert held_weight_bytes(model) == sum(told.layers) + told.outside
    empty = skeleton(model.config, torch.float32, family)
    assert held_cache_bytes(filled(model, 50)) == cache_bytes(layer_caches(empty, family), 50)


def test_packed_weights_are_those_that_were_told_before(nf4):
    plain, packed = nf4
    told = loaded_weights(skeleton(plain.config, torch.float32, "it"), 4)
    assert held_weight_bytes(packed) == sum(told.layers) + told.outside
