"""Invariant 1 of the design, for each family of the table: a pruned checkpoint, loaded from disk by stock
transformers, computes what the full model computes with those layers skipped.

The skipping takes an independent path: the layers are replaced by pass-throughs in the loaded full model, their
indices untouched. The reference generates without a KV cache, the pruned model with one.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError
from prune.common.provenance import file_sha256
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.models.loading import decoder_layers

LAYERS, WINDOW, LENGTH = 8, 6, 20  # sequences are longer than the window, so that a wrong layer type shows
DROPS = [(2, 3, 4), (1, 4), (0, 5, 6)]

_SMALL = {"vocab_size": 97, "max_position_embeddings": 128, "initializer_range": 0.4}
_TOKENS = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
_BODY = {"num_hidden_layers": LAYERS, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, **_TOKENS}
_GQA = {**_SMALL, **_BODY, "num_key_value_heads": 2}
_HEAD = {"head_dim": 8}
_GEMMA = {**_GQA, **_HEAD, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
_QWEN = {**_GQA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": LAYERS,  # as deep as the text decoder, and yet not to be cut
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# name -> (model_type, fields of its config)
MODELS = {
    "bloom": ("bloom", {"n_layer": LAYERS, "hidden_size": 32, "n_head": 4, **_SMALL, **_TOKENS}),
    "cohere": ("cohere", _GQA),
    "cohere2": ("cohere2", {**_GQA, "sliding_window": WINDOW}),
    "falcon": ("falcon", {**_SMALL, **_BODY}),
    "gemma": ("gemma", {**_GQA, **_HEAD}),
    "gemma2": ("gemma2", _GEMMA),
    "gemma3": (
        "gemma3",
        {
            "text_config": {**_GEMMA, "layer_types": None, "model_type": "gemma3_text"},
            "vision_config": _VISION,
            "mm_tokens_per_image": 4,
            "image_token_index": 90,
            "boi_token_index": 91,
            "eoi_token_index": 92,
        },
    ),
    "gemma3_text": ("gemma3_text", _GEMMA),
    "gemma3_text-period": ("gemma3_text", {**_GEMMA, "sliding_window_pattern": 3}),
    "gpt2": (
        "gpt2",
        {"n_layer": LAYERS, "n_embd": 32, "n_head": 4, "n_positions": 128, **_TOKENS}
        | {"vocab_size": 97, "initializer_range": 0.4},
    ),
    "gpt_neox": ("gpt_neox", {**_SMALL, **_BODY}),
    "gptj": ("gptj", {"n_layer": LAYERS, "n_embd": 32, "n_head": 4, "rotary_dim": 8, **_SMALL, **_TOKENS}),
    "granite": ("granite", _GQA),
    "llama": ("llama", {**_GQA, "tie_word_embeddings": False}),
    "llama-tied": ("llama", {**_GQA, "tie_word_embeddings": True}),
    "mistral": ("mistral", {**_GQA, "sliding_window": WINDOW}),
    "mixtral": ("mixtral", {**_GQA, "num_local_experts": 4}),
    "olmo": ("olmo", _GQA),
    "olmo2": ("olmo2", _GQA),
    "olmo3": ("olmo3", {**_GQA, "sliding_window": WINDOW}),
    "opt": ("opt", {**_SMALL, **_BODY, "ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.4}),
    "phi": ("phi", {**_SMALL, **_BODY}),
    "phi3": ("phi3", {**_GQA, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", _QWEN),
    "qwen2-full": ("qwen2", {**_QWEN, "use_sliding_window": False}),
    "qwen3": ("qwen3", {**_QWEN, **_HEAD}),
    "stablelm": ("stablelm", _GQA),
    "starcoder2": ("starcoder2", {**_GQA, "sliding_window": WINDOW}),
    "qwen3-mixed": ("qwen3", {**_QWEN, **_HEAD, "layer_types": ["sliding_attention", "full_attention"] * 4}),
}


class PassThrough(torch.nn.Module):
    """Gives back the hidden states it is given, in the form in which its layer would answer."""

    def __init__(self, layer, in_tuple):
        super().__init__()
        self.__dict__["layer"] = layer  # not a submodule: only its plain attributes are asked for
        self.in_tuple = in_tuple

    def forward(self, hidden_states, *_, **__):
        return (hidden_states, None) if self.in_tuple else hidden_states

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)


@pytest.fixture(autouse=True)
def quiet():
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(name, shard)`: a random model of the family on disk, made once."""
    made = {}

    def make(name, shard="50GB"):
        if (name, shard) not in made:
            kind, fields = MODELS[name]
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))
            folder = tmp_path_factory.mktemp("full") / name
            model.save_pretrained(folder, max_shard_size=shard)
            made[name, shard] = folder
        return made[name, shard]

    return make


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def edit_config(folder: Path, edit) -> dict:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    return config


def rename_tensors(folder: Path, rename, extra=None) -> None:
    tensors = {rename(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, **(extra or {})}, folder / "model.safetensors", metadata={"format": "pt"})


def loaded(folder: Path):
    model, notes = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not notes["missing_keys"]
    return model.eval()


def reference(folder: Path, dropped):
    model = loaded(folder)
    layers = decoder_layers(model)
    assert len(layers) == LAYERS
    answered = []
    hook = layers[0].register_forward_hook(lambda module, args, output: answered.append(output))
    model(input_ids=torch.tensor([[1, 2]]))
    hook.remove()
    for layer in dropped:
        layers[layer] = PassThrough(layers[layer], isinstance(answered[0], tuple))
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def assert_same_function(full: Path, pruned: Path, dropped, *, layers: int = LAYERS):
    torch.manual_seed(1)
    ids = torch.randint(2, 90, (2, LENGTH))
    expected, found = reference(full, dropped), loaded(pruned)
    assert len(decoder_layers(found)) == layers - len(dropped)
    wanted = logits(expected, ids)
    assert (wanted - logits(loaded(full), ids)).abs().max() > 1e-2  # the dropped layers do matter here
    assert (wanted - logits(found, ids)).abs().max() <= 1e-5
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "do_sample": False}
    with torch.no_grad():
        by_reference = expected.generate(ids, use_cache=False, **options)
        by_pruned = found.generate(ids, use_cache=True, **options)
    assert by_reference.shape == (2, LENGTH + 12)
    assert torch.equal(by_reference, by_pruned)


def hashes(folder: Path) -> dict:
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dropped", DROPS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_generation_are_those_of_the_full_model_with_layers_skipped(saved, tmp_path, name, dropped):
    full = saved(name)
    before = hashes(full)
    cut(plan_cut(full, layers=dropped), tmp_path / "out", show_progress=False)
    assert hashes(full) == before
    assert_same_function(full, tmp_path / "out", dropped)


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "llama-tied", "phi3", "qwen3-mixed"])
def test_sharded_checkpoints(saved, tmp_path, name):
    full = saved(name, "20KB")
    assert (full / "model.safetensors.index.json").exists()
    cut(plan_cut(full, layers=DROPS[0]), tmp_path / "out", show_progress=False)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == shards
    assert 1 < len(shards) < len(list(full.glob("*.safetensors")))  # shards of dropped layers alone are gone
    stored = {name: tensor for shard in shards for name, tensor in load_file(tmp_path / "out" / shard).items()}
    assert set(index["weight_map"]) == set(stored)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored.values())
    assert index["metadata"]["total_parameters"] == sum(t.numel() for t in stored.values())
    assert_same_function(full, tmp_path / "out", DROPS[0])


OLD = ["cohere2", "gemma2", "gemma3_text", "gemma3_text-period", "olmo3", "qwen2", "qwen2-full", "qwen3"]


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("null", [False, True], ids=["absent", "null"])
def test_configs_of_older_transformers_without_layer_types(saved, tmp_path, name, null):
    full = copy_of(saved(name), tmp_path / "full")
    types = AutoConfig.from_pretrained(full).layer_types

    def to_old(config):
        if null:
            config["layer_types"] = None
        else:
            config.pop("layer_types")

    edit_config(full, to_old)
    assert AutoConfig.from_pretrained(full).layer_types == types
    dropped = DROPS[1]
    plan = plan_cut(full, layers=dropped)
    cut(plan, tmp_path / "out", show_progress=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["layer_types"] == [types[layer] for layer in plan.kept]
    assert "sliding_window_pattern" not in config
    assert_same_function(full, tmp_path / "out", dropped)


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "gemma3_text-period", "qwen3-mixed"])
def test_a_config_with_the_count_alone_changed_would_show(saved, tmp_path, name):
    """The guard of the tests above: types filled in anew for fewer layers give other logits."""
    full, dropped = saved(name), DROPS[1]
    cut(plan_cut(full, layers=dropped), tmp_path / "out", show_progress=False)
    naive = copy_of(tmp_path / "out", tmp_path / "naive")
    source = json.loads((full / "config.json").read_text())
    del source["layer_types"]
    (naive / "config.json").write_text(json.dumps(source | {"num_hidden_layers": LAYERS - len(dropped)}))
    ids = torch.arange(2, 2 + LENGTH)[None]
    assert (logits(loaded(naive), ids) - logits(loaded(tmp_path / "out"), ids)).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "prefix"), [("gpt2", "transformer."), ("llama-tied", "model."), ("gpt_neox", "")])
def test_names_of_other_times(saved, tmp_path, name, prefix):
    """Base-model names without prefix (the hub's gpt2), and buffers that old checkpoints carry along."""
    full = copy_of(saved(name), tmp_path / "full")
    stem = {"gpt2": "h.{}.attn.bias", "llama-tied": "layers.{}.self_attn.rotary_emb.inv_freq"}
    stem.setdefault("gpt_neox", "gpt_neox.layers.{}.attention.masked_bias")
    buffers = {stem[name].format(layer): torch.tensor([float(layer)]) for layer in range(LAYERS)}
    rename_tensors(full, lambda tensor: tensor.removeprefix(prefix), buffers)
    plan = plan_cut(full, layers=DROPS[0])
    cut(plan, tmp_path / "out", show_progress=False)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for place, layer in enumerate(plan.kept):
        assert stored[stem[name].format(place)] == layer
    assert stem[name].format(len(plan.kept)) not in stored
    assert_same_function(full, tmp_path / "out", DROPS[0])


def test_windows_count_follows_the_kept_layers(saved, tmp_path):
    cut(plan_cut(saved("qwen2"), layers=(1, 4)), tmp_path / "out", show_progress=False)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["max_window_layers"] == 2  # of layers 0, 1, 2 below the source's 3, layer 1 is gone
    assert config["num_hidden_layers"] == 6


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
    full = copy_of(saved("gpt2"), tmp_path / "full")
    edit_config(full, lambda config: config.update(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(CheckpointError, match=r"own number.*--layers 6-7 --allow-last"):
        plan_cut(full, layers="3-4")
    cut(plan_cut(full, layers="3-7", settings=CutSettings(allow_last=True)), tmp_path / "out", show_progress=False)
    assert_same_function(full, tmp_path / "out", (3, 4, 5, 6, 7))
