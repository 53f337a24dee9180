"""Cuts of families in forms of their own: shards, older configs, other names of tensors, towers, and numbered layers.

That a cut of each family is exact as transformers saves it is shown by test_every_family.py.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.families.config import family_of
from tests.support.checkpoints import edit_config
from tests.support.every_family import LAYERS, save_small_model
from tests.support.verdicts import DROPS, check_exact, loaded, quiet

# Name here -> model_type and fields, of models that differ from those of test_every_family.py.
VARIANTS = {
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "gemma3_text-period": ("gemma3_text", {"sliding_window_pattern": 3}),
    "qwen2-full": ("qwen2", {"use_sliding_window": False}),
    "qwen3-mixed": ("qwen3", {"layer_types": ["sliding_attention", "full_attention"] * 4}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(name, shard)`: the folder of a small random model, made once."""
    folders = {}

    def make(name, shard="50GB"):
        if (name, shard) not in folders:
            quiet()
            family, fields = VARIANTS.get(name, (name, {}))
            folders[name, shard] = tmp_path_factory.mktemp("full") / name
            save_small_model(family, folders[name, shard], shard=shard, **fields)
        return folders[name, shard]

    return make


def check_cut(full, out, dropped, **how):
    """Cut a model and compare what it computes; gives back the plan."""
    plan = plan_cut(full, layers=dropped, **how)
    cut(plan, out, show_progress=False)
    prefixes = family_of({"model_type": plan.model_type}, "").prefixes
    check_exact(plan.model_type, loaded(full, plan.model_type), prefixes, out, plan.dropped, generate=True)
    return plan


@pytest.mark.parametrize("dropped", DROPS, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_cut_exactly(saved, tmp_path, name, dropped):
    check_cut(saved(name), tmp_path / "out", dropped)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "llama-tied", "phi3", "qwen3-mixed"])
def test_sharded_checkpoints(saved, tmp_path, name):
    full = saved(name, "20KB")
    assert (full / "model.safetensors.index.json").exists()
    check_cut(full, tmp_path / "out", DROPS[0])
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == shards
    assert 1 < len(shards) < len(list(full.glob("*.safetensors")))  # shards of dropped layers alone are gone
    stored = {name: tensor for shard in shards for name, tensor in load_file(tmp_path / "out" / shard).items()}
    assert set(index["weight_map"]) == set(stored)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())
    assert index["metadata"]["total_parameters"] == sum(t.numel() for t in stored.values())


OLD = ["cohere2", "gemma2", "gemma3_text", "gemma3_text-period", "olmo3", "qwen2", "qwen2-full", "qwen3"]


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("null", [False, True], ids=["absent", "null"])
def test_configs_of_older_transformers_without_layer_types(saved, tmp_path, name, null):
    full = shutil.copytree(saved(name), tmp_path / "full")
    types = AutoConfig.from_pretrained(full).layer_types
    edit_config(full, *([] if null else ["layer_types"]), layer_types=None)
    assert AutoConfig.from_pretrained(full).layer_types == types
    plan = check_cut(full, tmp_path / "out", DROPS[1])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["layer_types"] == [types[layer] for layer in plan.kept]
    assert "sliding_window_pattern" not in config


@pytest.mark.parametrize(
    ("name", "prefix", "buffer"),
    [
        ("gpt2", "transformer.", "h.{}.attn.bias"),
        ("llama-tied", "model.", "layers.{}.self_attn.rotary_emb.inv_freq"),
        ("gpt_neox", "", "gpt_neox.layers.{}.attention.masked_bias"),
    ],
)
def test_names_of_other_times(saved, tmp_path, name, prefix, buffer):
    """Base-model names without prefix (the hub's gpt2), and buffers that old checkpoints carry along."""
    full = shutil.copytree(saved(name), tmp_path / "full")
    tensors = load_file(full / "model.safetensors")
    tensors = {tensor.removeprefix(prefix): content for tensor, content in tensors.items()}
    tensors |= {buffer.format(layer): torch.tensor([float(layer)]) for layer in range(LAYERS)}
    save_file(tensors, full / "model.safetensors", metadata={"format": "pt"})
    plan = check_cut(full, tmp_path / "out", DROPS[0])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for place, layer in enumerate(plan.kept):
        assert stored[buffer.format(place)] == layer
    assert buffer.format(len(plan.kept)) not in stored


def test_the_vision_tower_is_left_alone(saved, tmp_path):
    cut(plan_cut(saved("gemma3"), layers=(2, 3)), tmp_path / "out", show_progress=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vision_config"]["num_hidden_layers"] == LAYERS
    assert config["text_config"]["num_hidden_layers"] == LAYERS - 2
    stored = load_file(tmp_path / "out" / "model.safetensors")
    source = load_file(saved("gemma3") / "model.safetensors")
    tower = [name for name in source if "vision_tower" in name]
    assert tower
    assert all(torch.equal(stored[name], source[name]) for name in tower)


def test_layers_that_compute_with_their_own_number_may_not_move(saved, tmp_path):
    full = shutil.copytree(saved("gpt2"), tmp_path / "full")
    edit_config(full, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(CheckpointError, match=r"own number.*--layers 6-7 --allow-last"):
        plan_cut(full, layers="3-4")
    check_cut(full, tmp_path / "out", "3-7", settings=CutSettings(allow_last=True))
