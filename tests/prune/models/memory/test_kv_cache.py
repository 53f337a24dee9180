"""Bytes of keys, values and states: those of the cache that transformers really fills, for every family."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from prune.common.errors import CheckpointError, RegrowthError
from prune.families.table import FAMILIES
from prune.models.memory.kv_cache import LayerCache, cache_bytes, cache_of, layer_caches, tensors_in
from prune.models.memory.skeleton import skeleton
from tests.support.every_family import NOT_BUILT, WINDOW, own_name, small_config
from tests.support.verdicts import families, quiet

# One of each kind of cache, for the runs that leave the slow tests out.
SOME = """
    bloom cpmant deepseek_v3 falcon_h1 gemma3 gemma3n_text gpt2 jetmoe lfm2 llama llama4_text minimax mistral mllama
    nemotron_h qwen3_next rwkv
"""
UNTOLD = {  # families whose cache cannot be told, and what is said of them
    "longcat_flash": "which of its modules",
    "openai-gpt": "no cache",
    "recurrent_gemma": "no cache",
    "reformer": "no cache",
    "rwkv": "no cache",
    "xlm": "which of its modules",
    "xlnet": "does not run without weights",
}
BUILT = [
    name
    for name in families()
    if name not in NOT_BUILT and (not FAMILIES[own_name(name)].refused or name == "gemma3n_text")
]
LENGTHS = [(1, 3), (1, 23), (2, 41)]  # sequences, tokens: below and beyond the window of 6
KINDS = [("gemma3_text", f"window of {WINDOW}"), ("mamba2", "state"), ("llama", "full attention")]


def held(model, sequences, tokens):
    """Bytes of all that the cache of a real pass holds, less what counts tokens."""
    ids = torch.arange(sequences * tokens).reshape(sequences, tokens) % 80 + 2
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids, use_cache=True))
    return sum(tensor.nbytes for path, tensor in tensors_in(cache) if tensor.dim() and "seqlen_offset" not in path)


@pytest.mark.parametrize(
    "name", [name if name in SOME.split() else pytest.param(name, marks=pytest.mark.slow) for name in BUILT]
)
def test_bytes_are_those_of_the_cache_that_is_filled(name):
    quiet()
    if name in UNTOLD:
        with pytest.raises(RegrowthError, match=UNTOLD[name]):
            layer_caches(skeleton(small_config(name), torch.float32, name), name)
        return
    empty = skeleton(small_config(name), torch.float32, name)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(name)).eval()
    for sequences, tokens in LENGTHS:
        found = cache_bytes(layer_caches(empty, name, tokens=tokens), tokens, sequences)
        assert found == held(model, sequences, tokens), (sequences, tokens)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "qwen3_next", "zamba2", "deepseek_v3"])
def test_bytes_in_bfloat16_count_the_states_that_stay_wide(name):
    quiet()
    model = AutoModelForCausalLM.from_config(small_config(name), dtype=torch.bfloat16).eval()
    caches = layer_caches(skeleton(small_config(name), torch.bfloat16, name), name)
    assert cache_bytes(caches, 23) == held(model, 1, 23)


def test_what_is_generated_is_kept_like_what_was_read():
    model = AutoModelForCausalLM.from_config(small_config("gemma3_text")).eval()
    ids = torch.arange(2, 22)[None]
    made = model.generate(ids, max_new_tokens=9, min_new_tokens=9, return_dict_in_generate=True, do_sample=False)
    kept = sum(tensor.nbytes for _, tensor in tensors_in(made.past_key_values) if tensor.dim())
    caches = layer_caches(skeleton(small_config("gemma3_text"), torch.float32, "it"), "it")
    assert cache_bytes(caches, 28) == kept  # the last token that is made is not read


@pytest.mark.parametrize(("name", "words"), KINDS)
def test_kinds_are_named(name, words):
    assert layer_caches(skeleton(small_config(name), torch.float32, name), name)[0].kind == words


def test_a_cache_that_grows_in_steps_is_told_for_one_length_alone():
    empty = skeleton(small_config("deepseek_v4"), torch.float32, "it")
    with pytest.raises(CheckpointError, match="grows neither evenly nor up to a window"):
        layer_caches(empty, "it")
    assert any(layer.kind == "grows in steps" for layer in layer_caches(empty, "it", tokens=20))


def test_arithmetic():
    full, window, state = LayerCache("", token=10), LayerCache("", window=5, windowed=4), LayerCache("", state=7)
    assert [layer.bytes(3, 2) for layer in (full, window, state)] == [60, 24, 14]
    assert cache_bytes([full, window, state], 100, 2) == 2 * (1000 + 20 + 7)
    assert cache_bytes([full, window], 10) == 120
