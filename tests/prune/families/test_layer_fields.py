"""What becomes of config fields that speak of layers, in the spellings that files on the hub have."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune.common.errors import CheckpointError
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.families.config import cut_config
from prune.families.nearest import nearest_block
from prune.families.table import FAMILIES
from tests.support.checkpoints import edit_config
from tests.support.every_family import LAYERS, save_small_model


def after(kind, config, dropped, layers=8):
    kept = [layer for layer in range(layers) if layer not in dropped]
    return cut_config({"model_type": kind, **config}, FAMILIES[kind], layers, kept, "m")


_KINDS = ["full_attention"] * 8
_LINEAR = {"full_attn_layers": [4, 8], "kda_layers": [1, 2, 3, 5, 6, 7], "head_dim": 8}  # numbers from 1
_LINEAR_AFTER = {"full_attn_layers": [3, 6], "kda_layers": [1, 2, 4, 5], "head_dim": 8}
_TABLE = {"layer_types": _KINDS, "hidden_size_per_layer_input": 0, "per_layer_config": {"1": {}, "5": {"head_dim": 9}}}
_ENDS = {"moe_layer_start_index": 2, "moe_layer_end_index": 5, "moe_layer_interval": 1, "num_hidden_layers": 8}
_STEP = {
    "layer_types": _KINDS,
    "max_window_layers": 8,
    "decoder_sparse_step": 3,
    "mlp_only_layers": [],
    "num_experts": 4,
}
_STEP_AFTER = {"decoder_sparse_step": 1, "mlp_only_layers": [0, 2, 4, 5]}  # experts were in 2 and 5, and are in 1 and 3
_PATTERN = {"hybrid_override_pattern": "M*-EM-*E", "num_hidden_layers": 8}
_PICKS = {"index_topk_pattern": "FFSFFSSF", "first_k_dense_replace": 3}
_PICKS = {"index_topk_pattern": "FFSFFSSF", "first_k_dense_replace": 3}
_PICKED = ["full", "full", "shared", "full", "full", "full"]


@pytest.mark.parametrize(
    ("kind", "config", "dropped", "wanted"),
    [
        ("nemotron_h", _PATTERN, (1, 4), {"hybrid_override_pattern": "M-E-*E", "num_hidden_layers": 6}),
        (
            "glm_moe_dsa",
            _PICKS,
            (5, 6),
            {"indexer_types": _PICKED, "index_topk_pattern": None},
        ),
        ("kimi_linear", {"linear_attn_config": _LINEAR}, (1, 4), {"linear_attn_config": _LINEAR_AFTER}),
        ("gemma4_text", _TABLE, (1, 3), {"per_layer_config": {"3": {"head_dim": 9}}}),
        ("ernie4_5_moe", _ENDS, (1, 4), {"moe_layer_start_index": 1, "moe_layer_end_index": 3}),
        ("minicpm3", {"scale_depth": 1.4}, (1, 4), {"scale_depth": pytest.approx(1.4 * (6 / 8) ** 0.5, rel=1e-14)}),
        *((kind, _STEP, (1, 3), _STEP_AFTER) for kind in ("qwen3_moe", "qwen3_next", "qwen2_moe", "flint")),
    ],
)
def test_each_spelling_follows_its_layers(kind, config, dropped, wanted):
    found = after(kind, config, dropped)
    assert {key: found.get(key) for key in wanted} == wanted


def test_a_list_that_goes_on_for_multi_token_layers_keeps_its_tail():
    types = ["sliding_attention"] * 8 + ["full_attention"]
    with pytest.raises(CheckpointError, match="layer_types has 9 entries, but the model has 8 layers"):
        after("glm4_moe", {"layer_types": types, "first_k_dense_replace": 1}, (1, 3))
    stated = {"layer_types": types, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1}
    found = after("glm4_moe", stated, (1, 3))
    assert found["layer_types"] == types[2:]


def test_a_period_is_cut_by_whole_periods():
    config = {"attn_layer_period": 4, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    assert after("jamba", config, (2, 3, 4, 5))["num_hidden_layers"] == 4
    with pytest.raises(CheckpointError, match=r"expert_layer_period .*--layers 2-3$"):
        after("jamba", config | {"attn_layer_period": 8}, (2,), 8)
    with pytest.raises(CheckpointError, match=r"nearest block that is exact is --layers 1-4"):
        after("jamba", config, (1, 2, 4, 6))


@pytest.mark.parametrize("dropped", [(4,), (5,)])
def test_a_donor_of_keys_stays(dropped):
    """Layers 6 and 7 take the keys of the last layer of their type below 6: of 5 and of 4."""
    types = ["sliding_attention", "full_attention"] * 4
    config = {"layer_types": types, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 0}
    with pytest.raises(CheckpointError, match=r"keys of a dropped one \(layer \d reads from layer \d\); the nearest"):
        after("gemma4_text", config, dropped)
    found = after("gemma4_text", config, (0, 3, 6))
    assert found["num_kv_shared_layers"] == 1


def test_shared_keys_stay_shared(tmp_path):
    from tests.support.verdicts import check_exact, loaded, quiet

    quiet()
    types = ["sliding_attention", "full_attention"] * 4
    save_small_model("gemma4_unified_text", tmp_path / "full", num_kv_shared_layers=2, layer_types=types)
    for dropped in [(1, 2), (0, 3, 6)]:
        out = cut(plan_cut(tmp_path / "full", layers=dropped), tmp_path / f"out{dropped[0]}", show_progress=False)
        full = loaded(tmp_path / "full")
        check_exact("gemma4_unified_text", full, ("model.layers.",), out, dropped, generate=True)


def test_minimax_needs_its_slopes_in_the_file(tmp_path):
    save_small_model("minimax", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    bare = {name: tensor for name, tensor in stored.items() if not name.endswith("slope_rate")}
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no tensor ends in \.slope_rate"):
        plan_cut(tmp_path, layers=(2, 3))


def test_experts_keep_their_numbers_in_the_hubs_own_layout(tmp_path):
    """mixtral on the hub: one tensor per expert, numbered inside the layer."""
    save_small_model("mixtral", tmp_path / "full")
    names = {
        f"model.layers.{layer}.block_sparse_moe.experts.{expert}.w{matrix}.weight": torch.tensor(
            [layer, expert, matrix]
        )
        for layer in range(8)
        for expert in range(4)
        for matrix in (1, 2, 3)
    }
    save_file(names, tmp_path / "full" / "model.safetensors", metadata={"format": "pt"})
    plan = plan_cut(tmp_path / "full", layers=(1, 4))
    cut(plan, tmp_path / "out", show_progress=False)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert len(found) == 6 * 4 * 3
    for name, tensor in found.items():
        place, expert, matrix = (int(name.split(".")[at].lstrip("w")) for at in (2, 5, 6))
        assert tensor.tolist() == [plan.kept[place], expert, matrix]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 6


def test_the_nearest_block_keeps_the_size_and_then_the_place():
    even = lambda kept: all(layer % 2 == place % 2 for place, layer in enumerate(kept))  # noqa: E731
    assert nearest_block(even, 12, (3, 4)) == (3, 4)
    assert nearest_block(even, 12, (3, 7)) == (3, 4)
    assert nearest_block(even, 12, (3, 4, 5)) == (3, 4)  # not (9, 10, 11), which takes the last layer
    assert nearest_block(even, 12, (3, 5, 11)) == (9, 10, 11)
    assert nearest_block(lambda kept: False, 12, (3, 4, 5)) is None


def test_multi_token_layers_and_encoder_decoders(tmp_path):
    """Layers behind the decoder's own follow the kept ones, and an encoder-decoder is refused."""
    full = tmp_path / "full"
    save_small_model("deepseek_v3", full)
    stored = load_file(full / "model.safetensors")
    extra = {"mlp.up_proj.weight": 1.0, "eh_proj.weight": 2.0, "mlp.experts.3.up_proj.weight": 3.0}
    more = {f"model.layers.{LAYERS}.{name}": torch.full((2,), value) for name, value in extra.items()}
    save_file({**stored, **more}, full / "model.safetensors", metadata={"format": "pt"})
    edit_config(full, num_nextn_predict_layers=0)
    with pytest.raises(CheckpointError, match=f"counts {LAYERS} layers, but the weights hold {LAYERS + 1}"):
        plan_cut(full, layers=(2, 5))
    skipped = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["model.layers.8.eh_proj", "model.layers.5.x", "lm_head"],
    }
    edit_config(full, num_nextn_predict_layers=1, quantization_config=skipped)
    plan = plan_cut(full, layers=(2, 5))
    assert plan.layers == LAYERS
    cut(plan, tmp_path / "out", show_progress=False)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in extra.items():
        assert found[f"model.layers.{LAYERS - 2}.{name}"].tolist() == [value, value]
    assert not any(name.startswith(f"model.layers.{LAYERS - 1}.") for name in found)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["first_k_dense_replace"] == 2
    assert written["quantization_config"]["modules_to_not_convert"] == ["model.layers.6.eh_proj", "lm_head"]
    edit_config(full, is_encoder_decoder=True)
    with pytest.raises(CheckpointError, match="encoder-decoder"):
        plan_cut(full, layers=(2, 5))
