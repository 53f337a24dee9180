"""What a request comes to: which layers, by which numbers, and which requests are refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.choosing.settings import CutSettings
from prune.common.errors import CheckpointError, UsageError
from prune.common.layers import parse_layers, runs, spell_layers
from prune.cutting.plan import CutPlan
from prune.cutting.planning import plan_cut
from prune.families.config import changes, cut_config, family_of
from prune.families.table import FAMILIES
from tests.support.checkpoints import UNCHECKED, hand_made_scan

# --- layer sets in words -------------------------------------------------------------------------------------------

layer_sets = st.sets(st.integers(0, 200), min_size=1)


@given(layer_sets)
def test_what_is_spelled_can_be_read_again(layers):
    spelled = spell_layers(layers)
    assert parse_layers(spelled.replace(" and ", ",")) == tuple(sorted(layers))
    assert [layer for start, size in runs(layers) for layer in range(start, start + size)] == sorted(layers)


@given(st.text(alphabet="0123456789-, x", max_size=20))
def test_any_text_is_layers_or_a_usage_error(text):
    try:
        found = parse_layers(text)
    except UsageError:
        return
    assert list(found) == sorted(set(found))
    assert set(text) <= set("0123456789-, ")


@pytest.mark.parametrize(
    "text", ["", ",", "3,", "a", "-1", "1-", "5-3", "3,3", "1-4,2", "1.5", "0-999999999", "9" * 30, "１", "1--2"]
)
def test_layer_lists_that_are_none(text):
    with pytest.raises(UsageError, match="--layers"):
        parse_layers(text)


def test_words():
    assert parse_layers("3, 7,20 - 24") == (3, 7, 20, 21, 22, 23, 24)
    assert spell_layers([]) == "none"
    assert spell_layers([5]) == "5"
    assert spell_layers([0, 1, 2, 5, 7, 8]) == "0-2, 5 and 7-8"


# --- which layers --------------------------------------------------------------------------------------------------


def test_a_plan_says_itself_in_source_numbering(sample_model):
    plan = plan_cut(sample_model, n=6, start=13)
    assert plan.words == "drop 6 of 30 layers: 13-18 (source numbering, 0-based); keep 0-12 and 19-29"
    assert plan.dropped == (13, 14, 15, 16, 17, 18)
    assert plan.kept == (*range(13), *range(19, 30))
    assert plan.criterion == "named"
    assert plan.config == {"num_hidden_layers": {"before": 30, "after": 24}}
    assert plan.before.parameters == 134_515_008
    per_layer = (plan.before.parameters - 49152 * 576 - 576) // 30
    assert plan.after.parameters == plan.before.parameters - 6 * per_layer
    assert plan.after.bytes == 4 * plan.after.parameters


@pytest.mark.parametrize(
    ("request_", "dropped"),
    [
        ({"n": 1}, (2,)),
        ({"n": 2}, (2, 3)),  # d is least at 6, but that would take layer 7, the last
        ({"n": 2, "allow_last": True}, (6, 7)),
        ({"n": 2, "criterion": "deepest"}, (5, 6)),
        ({"n": 2, "criterion": "deepest", "allow_last": True}, (6, 7)),
        ({"n": 3, "criterion": "influence"}, (0, 2, 4)),
        ({"n": 7}, (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_each_criterion_finds_its_layers(tiny_llama, request_, dropped):
    scan = hand_made_scan(tiny_llama)
    how = {key: request_[key] for key in ("criterion", "allow_last") if key in request_}
    plan = plan_cut(tiny_llama, n=request_["n"], scan=scan, settings=replace(UNCHECKED, **how))
    assert plan.dropped == dropped
    assert plan.criterion == request_.get("criterion", "angular")
    if len(runs(dropped)) == 1:
        assert plan.evidence["angular_distance"] == scan.distance[len(dropped) - 1][dropped[0]]
    else:
        assert plan.evidence["influence"] == [scan.influence[layer] for layer in dropped]
    assert plan.evidence["scan"]["samples"] == 3


def test_deepest_needs_no_scan(tiny_llama):
    plan = plan_cut(tiny_llama, n=3, settings=CutSettings(criterion="deepest"))
    assert plan.dropped == (4, 5, 6)
    assert plan.evidence == {}


@pytest.mark.parametrize(
    ("scan", "message"),
    [
        (lambda folder: hand_made_scan(layers=6), "of a model of 6 layers, but .* has 8"),
        (lambda folder: hand_made_scan(folder, config_sha256="0"), "another config.json"),
        (lambda folder: hand_made_scan(folder, shards={"model.safetensors": "0"}), "other weights"),
    ],
)
def test_a_scan_of_another_model_is_refused(tiny_llama, scan, message):
    with pytest.raises(CheckpointError, match=message):
        plan_cut(tiny_llama, n=2, scan=scan(tiny_llama))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "say what to drop"),
        ({"start": 3}, "say what to drop"),
        ({"n": 0}, "--n 0"),
        ({"n": -2}, "--n -2"),
        ({"n": 2, "start": -1}, "--start -1"),
        ({"n": 8, "criterion": "deepest"}, "does not fit"),
        ({"n": 8, "criterion": "deepest", "allow_last": True}, "at least one"),
        ({"n": 10**30, "start": 0}, "do not fit"),
        ({"n": 3, "start": 6}, "layers 6 to 8 do not fit: the model has layers 0-7"),
        ({"n": 3, "start": 5}, "--allow-last"),
        ({"n": 8, "start": 0, "allow_last": True}, "at least one"),
        ({"layers": "3,9"}, "do not fit"),
        ({"layers": "7"}, "--allow-last"),
        ({"layers": "0-7", "allow_last": True}, "at least one"),
        ({"layers": "3", "start": 3}, "leave --start out"),
        ({"layers": "3", "n": 1}, "leave --n out"),
        ({"layers": "3", "criterion": "deepest"}, "--criterion has no say"),
        ({"n": 1, "start": 3, "scan": "scan.json"}, "--scan has no say"),
        ({"n": 1, "criterion": "best"}, "--criterion best is unknown"),
        ({"layers": []}, "--layers"),
    ],
)
def test_requests_that_make_no_sense(tiny_llama, request_, message):
    with pytest.raises(UsageError, match=message):
        how = {key: request_[key] for key in ("criterion", "allow_last") if key in request_}
        which = {key: value for key, value in request_.items() if key not in how}
        plan_cut(tiny_llama, **which, settings=CutSettings(**how))


@pytest.mark.parametrize(
    "damage",
    [
        {"dropped": [5, 4]},
        {"dropped": [1, 99]},
        {"dropped": []},
        {"dropped": "45"},
        {"dropped": [0.5]},
        {"kept": [0]},
        {"layers": "8"},
        {"layers": 10**9},
        {"source": []},
        {"criterion": None},
        {"before": {}},
        {"history": [{"layers": 3}]},
        {"history": [{"model": "m", "layers": 20, "dropped": [1]}]},
    ],
)
def test_a_damaged_plan_is_refused(tiny_llama, tmp_path, damage):
    document = plan_cut(tiny_llama, layers="4-5").to_json() | damage
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="damaged"):
        CutPlan.read(tmp_path / "plan.json")


# --- configs -------------------------------------------------------------------------------------------------------

LLAMA = FAMILIES["llama"]


def cut_llama(config, kept=(0, 2), layers=4):
    return cut_config({"num_hidden_layers": layers, **config}, LLAMA, layers, kept, "here")


@pytest.mark.parametrize(
    "config",
    [
        {"moe_layer_kinds": [0, 1, 0, 1]},
        {"nested": {"deeper": {"kinds": ["a", "b", "c", "d"]}}},
        {"kinds_of_layers": {"0": "a", "3": "b"}},
    ],
)
def test_what_may_speak_of_layers_unknown_to_us_is_refused(config):
    with pytest.raises(CheckpointError, match="a guess could change the model"):
        cut_llama(config)


def test_lists_that_do_not_speak_of_layers_stay():
    config = {
        "architectures": ["A", "B", "C", "D"],
        "eos_token_id": [1, 2, 3, 4],
        "rope_parameters": {"short_factor": [1.0, 2.0, 3.0, 4.0]},
        "id2label": {"0": "a", "1": "b"},
        "vision_config": {"depths": [1, 2, 3, 4]},
        "mrope_section": [1, 2, 3],
    }
    assert cut_llama(config) == {"num_hidden_layers": 2, **config}


def test_nonsense_in_a_stated_field_is_refused():
    fields = {"layer_types": ["full_attention"] * 4, "mlp_only_layers": [0], "num_experts": 4, "max_window_layers": 2}
    with pytest.raises(CheckpointError, match="do not make sense"):
        cut_config({**fields, "decoder_sparse_step": 2, "mlp_only_layers": 3}, FAMILIES["qwen2_moe"], 4, (0, 2), "here")


def test_names_in_a_quantisation_config_follow_their_layers():
    config = {
        "quantization_config": {
            "bits": 4,
            "modules_to_not_convert": ["lm_head", "model.layers.1.mlp", "model.layers.2.mlp", "layers.0"],
            "overrides": {"model.layers.2.self_attn.q_proj": {"bits": 8}, "model.layers.3.mlp": {"bits": 8}},
            "targets": ["re:.*layers.*mlp"],
        }
    }
    assert cut_llama(config)["quantization_config"] == {
        "bits": 4,
        "modules_to_not_convert": ["lm_head", "model.layers.1.mlp", "layers.0"],
        "overrides": {"model.layers.1.self_attn.q_proj": {"bits": 8}},
        "targets": ["re:.*layers.*mlp"],
    }


@pytest.mark.parametrize("name", [r"-:model\.layers\.3\.mlp", "re:layers.[01].mlp", "re:model.layers.(0|3).mlp"])
def test_layers_named_by_a_pattern_are_refused(name):
    with pytest.raises(CheckpointError, match="by a pattern"):
        cut_llama({"quantization_config": {"dynamic": {name: {"bits": 8}}}})


def test_the_source_config_is_not_touched_and_changes_are_told():
    config = {"num_hidden_layers": 4, "layer_types": ["a", "b", "c", "d"], "rope": {"x": 1}}
    new = cut_config(config, LLAMA, 4, (0, 3), "here")
    assert config["layer_types"] == ["a", "b", "c", "d"]
    assert changes(config, new) == {
        "num_hidden_layers": {"before": 4, "after": 2},
        "layer_types": {"before": ["a", "b", "c", "d"], "after": ["a", "d"]},
    }


def test_a_config_without_a_family_is_refused():
    with pytest.raises(CheckpointError, match="names no model_type"):
        family_of({}, "here")
