"""Rows at a time: what a GPU's memory holds of caches and logits, and on a CPU what it always was."""

import torch

from prune.models.fitting import fitting_rows, row_bytes, rows_at_once, usual_cache
from prune.models.memory.kv_cache import cache_bytes
from tests.support.models import FAMILIES, tiny


def test_bytes_of_a_cache_are_those_that_generation_holds():
    for family in FAMILIES:
        model = tiny(family)
        cache = model(input_ids=torch.arange(3, 20)[None], use_cache=True).past_key_values
        held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        assert cache_bytes(usual_cache(model.config.get_text_config(), 4), 17) == held, family


def test_rows_are_a_power_of_two_of_what_fits():
    assert [fitting_rows(free, 100) for free in (0, 100, 499, 500, 1000, 2000, 10**9)] == [1, 1, 2, 4, 8, 16, 256]
    assert fitting_rows(10**9, 100, most=64) == 64
    llama = tiny("llama").config
    assert row_bytes(llama, 2, 200) - row_bytes(llama, 2, 100) == cache_bytes(usual_cache(llama, 2), 100) + 100 * 2 * (
        4 * 64 + 3 * 128
    )


def test_a_cpu_keeps_its_number():
    assert rows_at_once(tiny("llama"), 10**9, usual=16) == 16
