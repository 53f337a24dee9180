"""Bytes of weights and of work: those that transformers holds, and those that torch's allocator hands out."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench.shared.allocated import allocated_peak
from prune.checkpoint.headers import read_checkpoint
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError, UsageError
from prune.families.subject import open_subject
from prune.families.table import FAMILIES
from prune.models.loading import cache_argument, load_model, longest_context, longest_stated, read_config, stored_dtype
from prune.models.memory.held import held_weight_bytes
from prune.models.memory.kv_cache import cache_bytes, cache_of, layer_caches
from prune.models.memory.needs import Load
from prune.models.memory.reckoning import read_needs
from prune.models.memory.skeleton import skeleton
from prune.models.memory.weights import loaded_weights
from prune.models.memory.work import _measured, prompt_work
from prune.models.nf4 import quantisation
from tests.support.every_family import NOT_BUILT, own_name, save_small_model, small_config
from tests.support.models import tiny
from tests.support.verdicts import LOADED_WHOLE, families, quiet
from tests.support.versions import needs_newer_transformers

SOME = ["bamba", "deepseek_v3", "gemma3", "gpt2", "jamba", "llama", "mixtral", "opt", "qwen3_next", "zamba2"]
UNTOLD = {"longcat_flash": "which of its modules", "xlm": "which of its modules"}  # whose layers cannot be told
BUILT = [
    name
    for name in families()
    if name not in NOT_BUILT and (not FAMILIES[own_name(name)].refused or name == "gemma3n_text")
]


def counted(folder, bits):
    config = read_config(folder, "it")
    found = loaded_weights(skeleton(config, stored_dtype(read_checkpoint(folder), config), "it"), bits)
    return found.outside + sum(found.layers)


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in BUILT]
)
def test_weights_are_those_that_are_loaded(name, tmp_path):
    quiet()
    save_small_model(name, tmp_path, dtype=torch.bfloat16)
    if name in UNTOLD:
        with pytest.raises(RegrowthError, match=UNTOLD[name]):
            counted(tmp_path, 16)
        return
    if name in LOADED_WHOLE:
        with pytest.raises(CheckpointError, match=r"which none of its files holds \(they hold "):
            load_model(Source(tmp_path, "it"))
        return
    assert counted(tmp_path, 16) == held_weight_bytes(load_model(Source(tmp_path, "it")))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", "qwen3_next"])
def test_weights_are_those_that_bitsandbytes_holds(name, bits, tmp_path):
    quiet()
    save_small_model(name, tmp_path, dtype=torch.bfloat16)
    how = {"quantization_config": quantisation(torch.bfloat16, bits=bits), "device_map": {"": "cpu"}}
    model = load_model(Source(tmp_path, "it"), dtype=torch.bfloat16, **how)
    assert counted(tmp_path, bits) == held_weight_bytes(model)


def allocated(model, ids, past=None):
    """The peak of what torch's allocator hands out for a prompt, by its own profiler."""
    with torch.no_grad():
        model(input_ids=ids[:, :8], use_cache=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            answer = model(input_ids=ids, use_cache=True, **{cache_argument(model): past}, logits_to_keep=1)
            answer.logits[:, -1].to(dtype=torch.float32, copy=True)
    return allocated_peak(seen)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_work_is_what_the_allocator_hands_out(family):
    """Gemma 2 attends without a fused kernel, so that scores count, and cuts windows off after the pass."""
    needs_newer_transformers("makes masks and states otherwise, so that less of its work is counted")
    model = tiny(family, max_position_embeddings=1024)
    empty = skeleton(model.config, torch.float32, "it")
    caches = layer_caches(empty, "it")
    work = prompt_work(empty, "it", caches, tokens=700, sequences=2, chunk=None)
    real = allocated(model, torch.arange(1400).reshape(2, 700) % 290 + 5)
    assert cache_bytes(caches, 700, 2) + work.peak(range(3)) == pytest.approx(real, rel=0.01)


def test_work_of_the_last_chunk_is_what_the_allocator_hands_out_beside_what_is_kept():
    needs_newer_transformers("makes masks and states otherwise, so that less of its work is counted")
    model = tiny("gemma3_text", max_position_embeddings=1024, sliding_window=64)
    empty = skeleton(model.config, torch.float32, "it")
    caches = layer_caches(empty, "it")
    ids = torch.arange(1400).reshape(2, 700) % 290 + 5
    with torch.no_grad():
        past = cache_of(model(input_ids=ids[:, :500], use_cache=True))
    real = allocated(model, ids[:, 500:], past)
    work = prompt_work(empty, "it", caches, tokens=700, sequences=2, chunk=200)
    copied = cache_bytes(caches, 700, 2) + cache_bytes(caches, 500, 2)  # the profiler counts what is copied twice
    assert work.peak(range(3)) <= real <= copied + work.peak(range(3)) + sum(work.beyond)
    assert (
        work.peak(range(3)) < prompt_work(empty, "it", caches, tokens=700, sequences=2, chunk=None).peak(range(3)) / 2
    )


def test_work_of_long_prompts_through_states_is_reckoned_from_short_ones():
    needs_newer_transformers("makes masks and states otherwise, so that less of its work is counted")
    empty = skeleton(small_config("bamba"), torch.float32, "it")
    caches = layer_caches(empty, "it")
    short, long = (
        prompt_work(empty, "it", caches, tokens=tokens, sequences=1, chunk=None).peak(range(8))
        for tokens in (512, 4096)
    )
    assert long == pytest.approx(8 * short, rel=0.05)


def test_work_of_the_last_chunk_through_states_and_attention_is_reckoned_from_short_ones():
    """Keys and values of all before the chunk are copied for every head, and its mask is as wide."""
    needs_newer_transformers("makes masks and states otherwise, so that less of its work is counted")
    empty = skeleton(small_config("bamba"), torch.float32, "it")
    caches = layer_caches(empty, "it")
    reckoned = prompt_work(empty, "it", caches, tokens=900, sequences=1, chunk=200)
    counted = _measured(empty, "it", caches, 900, 1, 200)
    assert reckoned.peak(range(8)) == pytest.approx(counted.peak(range(8)), rel=0.05)


def test_fewer_layers_take_less(tmp_path):
    save_small_model("gemma3_text", tmp_path)
    subject = open_subject(tmp_path)
    needs = read_needs(subject.source, subject.checkpoint, Load(100), layer_of=subject.names.layer, layers=8)
    whole, half, window, full = (needs.of(kept) for kept in (range(8), range(4), [0], [5]))
    assert whole.total == whole.weights + whole.cache + whole.work
    assert whole.weights - half.weights == sum(needs.weights.layers[4:])
    assert window.cache < full.cache / 10
    with pytest.raises(UsageError, match="--context 129 is beyond the 128 tokens"):
        read_needs(subject.source, subject.checkpoint, Load(129), layer_of=subject.names.layer, layers=8)


def test_a_context_that_is_stretched():
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    assert longest_context(tiny("qwen2").config) == 128
    assert longest_context(tiny("qwen2", max_position_embeddings=64, rope_parameters=rope).config) == 256
    assert longest_stated({"n_positions": 64, "rope_scaling": rope}) == 256
    assert longest_context(small_config("mamba2")) is None
