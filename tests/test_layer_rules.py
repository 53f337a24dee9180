"""The rules by which config classes lay out their layers, compared with the classes themselves."""

import dataclasses

import pytest

from prune.errors import CheckpointError
from prune.families import FAMILIES
from prune.nearest import nearest_block
from tests.small_models import LAYERS, small_fields

# A rule of a field that its class fills in whatever the depth.
OF_ONE_DEPTH = {"zamba2": 54, "nemotron_h": 4}
RULES = [
    (name, key)
    for name, family in FAMILIES.items()
    for key, rule in family.lists.items()
    if rule and family.section is None
]


@pytest.mark.parametrize("more", [{}, {"depth": 13}], ids=["8 layers", "13 layers"])
@pytest.mark.parametrize(("name", "key"), RULES)
def test_a_rule_lays_out_layers_as_its_config_class_does(name, key, more):
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    depth = OF_ONE_DEPTH.get(name, more.get("depth", LAYERS))
    config_class = CONFIG_MAPPING[name]
    fields = small_fields(config_class)
    fields |= {count: depth for count in ("num_hidden_layers",) if count in fields}
    if name == "lfm2":
        fields["full_attn_idxs"] = [1, 4]
    if name == "nemotron_h":
        fields.pop("num_hidden_layers", None)
    if name == "zaya":
        fields["num_experts_per_tok"] = 1
    config = config_class(**fields)
    found = getattr(config, key)
    json_fields = {field.name: field.default for field in dataclasses.fields(config_class)} | fields
    plain = {field: value for field, value in json_fields.items() if isinstance(value, int | float | str | list | bool)}
    section = {field: value for field, value in plain.items() if field not in FAMILIES[name].lists}
    entries = {}
    for other, rule in FAMILIES[name].lists.items():
        if rule:
            entries[other] = rule(section, depth)
    assert list(found) == entries[key]


def test_the_nearest_block_keeps_the_size_and_then_the_place():
    even = lambda kept: all(layer % 2 == place % 2 for place, layer in enumerate(kept))  # noqa: E731
    assert nearest_block(even, 12, (3, 4)) == (3, 4)
    assert nearest_block(even, 12, (3, 7)) == (3, 4)
    assert nearest_block(even, 12, (3, 4, 5)) == (3, 4)  # not (9, 10, 11), which takes the last layer
    assert nearest_block(even, 12, (3, 5, 11)) == (9, 10, 11)
    assert nearest_block(lambda kept: False, 12, (3, 4, 5)) is None


def test_multi_token_layers_and_encoder_decoders(tmp_path):
    """Layers behind the decoder's own follow the kept ones, and an encoder-decoder is refused."""
    import json

    import torch
    from safetensors.torch import load_file, save_file

    from prune.planning import plan_cut
    from prune.surgery import cut
    from tests.small_models import save_small_model

    full = tmp_path / "full"
    save_small_model("deepseek_v3", full)
    stored = load_file(full / "model.safetensors")
    extra = {"mlp.up_proj.weight": 1.0, "eh_proj.weight": 2.0, "mlp.experts.3.up_proj.weight": 3.0}
    more = {f"model.layers.{LAYERS}.{name}": torch.full((2,), value) for name, value in extra.items()}
    save_file({**stored, **more}, full / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((full / "config.json").read_text())
    config["num_nextn_predict_layers"] = 0
    (full / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"counts {LAYERS} layers, but the weights hold {LAYERS + 1}"):
        plan_cut(full, layers=(2, 5))
    skipped = {
        "quant_method": "fp8",
        "modules_to_not_convert": ["model.layers.8.eh_proj", "model.layers.5.x", "lm_head"],
    }
    config |= {"num_nextn_predict_layers": 1, "quantization_config": skipped}
    (full / "config.json").write_text(json.dumps(config))
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
    (full / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    with pytest.raises(CheckpointError, match="encoder-decoder"):
        plan_cut(full, layers=(2, 5))
