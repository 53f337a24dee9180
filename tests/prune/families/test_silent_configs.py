"""Configs that leave a field about layers to their class, over the whole causal-LM mapping and without weights.

The class itself is the judge: what it makes of the cut config.json is what it made of the full one, with the dropped
layers taken out; or the cut is refused.
"""

import copy
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from transformers import AutoConfig, PreTrainedConfig

from prune.common.errors import CheckpointError
from prune.families import rules as layer_rules
from prune.families.config import cut_config
from prune.families.table import FAMILIES, NOT_OF_LAYERS
from tests.support.every_family import LAYERS, own_name, small_config
from tests.support.verdicts import DROPS, families, quiet

BARE_DEPTH = 11
# Families whose class fills in a list of one length whatever the depth, so that a model of another cannot leave it out.
OF_ONE_DEPTH = {"gpt_neo": 24, "nemotron_h": 4, "reformer": 6, "zamba2": 54}
# Fields that follow from others: how fresh weights are drawn; a count of something other than decoder layers; which
# layers keep keys for others, where `links` judges (a layer that nobody reads any more need not keep them).
DERIVED = {"final_w_init_variance_scale", "num_hidden_layers", "kv_sharing_modes"}
NOT_IN_OLDEST = {"axk1": ["mlp_layer_types"]}  # fields that the oldest transformers supported has not yet
BASE = set(dir(PreTrainedConfig))


def row_of(name):
    return FAMILIES[own_name(name)]


def section_of(config, row):
    return config.get(row.section, config)


def reading(config, row):
    """What stock transformers makes of a config.json: the decoder's fields and properties, by name."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        part = AutoConfig.from_pretrained(folder)
    part = getattr(part, row.section) if row.section else part
    found = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    properties = {name for name in dir(type(part)) if isinstance(getattr(type(part), name), property)} - BASE
    for name in (*properties, *row.asked):
        with suppress(AttributeError, RuntimeError):  # not in this version; not one value for all layers
            found[name] = getattr(part, name)
    if row.numbered:
        found |= {name: part.to_dict().get(name) for name in row.numbered}
    return found


def expected(key, value, row, kept, layers):
    """A field of the full model's config once the dropped layers are taken out."""
    new = {layer: place for place, layer in enumerate(kept)}
    if key in row.count:
        return len(kept)
    if key in row.indices:
        base = row.indices[key]
        return value and [new[number - base] + base for number in value if number - base in new]
    if key in row.numbered and value:
        return {type(number)(new[int(number)]): entry for number, entry in value.items() if int(number) in new}
    if key in row.cycles:
        return [value[layer % len(value)] for layer in kept]
    if key in row.counts:
        return value and sum(layer < value for layer in kept)
    if key in row.ends:
        return value if value == -1 else sum(layer <= value for layer in kept) - 1
    if key in row.tails:
        return sum(layer >= layers - value for layer in kept)
    if key in row.root_depth:
        return pytest.approx(value * (len(kept) / layers) ** 0.5)
    if key in row.runs:
        kinds = [kind for group, times in value for kind in group * times]
        return [[[kinds[layer] for layer in kept], 1]]
    value = list(value) if isinstance(value, tuple) else value
    if isinstance(value, list) and len(value) == layers and key not in {*row.plain, *NOT_OF_LAYERS}:
        return [value[layer] for layer in kept]
    return value


def check(config, dropped, layers, row):
    """Cut a config.json and compare what its class makes of it before and after; or give back the refusal."""
    kept = [layer for layer in range(layers) if layer not in dropped]
    before = reading(config, row)
    try:
        new = cut_config(config, row, layers, kept, "m")
    except CheckpointError as refusal:
        return str(refusal)
    after = reading(new, row)
    if row.steps:  # a step becomes a list
        experts = layer_rules.sparse_steps(before, layers)
        assert layer_rules.sparse_steps(after, len(kept)) == [experts[layer] for layer in kept]
    for key in before.keys() - {*row.periods, *row.strides, *row.old, *DERIVED}:
        if row.steps is None or key not in {"mlp_only_layers", "decoder_sparse_step"}:
            found = list(after[key]) if isinstance(after[key], tuple) else after[key]
            assert found == expected(key, before[key], row, kept, layers), key
    return ""


def loads(config, row):
    """Whether stock transformers reads a config.json."""
    try:
        return reading(config, row)
    except Exception:
        return False


def check_refusal(refusal, name, row, *, null=False):
    """A cut may be refused by the family's condition, but not because its class was not understood."""
    words = [*row.fixed, *row.links, "no layer with attention would stay", *(["make sense"] if null else [])]
    words += [f"has no {key} for" for key in NOT_IN_OLDEST.get(name, ())]
    assert not refusal or any(reason in refusal for reason in words) or name in OF_ONE_DEPTH, refusal


@pytest.fixture(autouse=True)
def silence():
    quiet()


@pytest.mark.parametrize("name", families())
def test_a_config_of_nothing_but_its_depth_is_cut_as_its_class_fills_it(name):
    row = row_of(name)
    depth = OF_ONE_DEPTH.get(name, BARE_DEPTH)
    fields = {row.count[0]: depth}
    config = {"model_type": own_name(name), **({row.section: fields} if row.section else fields)}
    for dropped in [] if row.refused else DROPS:
        refusal = check(config, [layer for layer in dropped if layer < depth - 1], depth, row)
        check_refusal(refusal, name if name in NOT_IN_OLDEST else "", row)


@pytest.mark.parametrize("name", families())
def test_each_field_about_layers_may_be_left_to_the_class(name):
    """Absent at the first place, null at the second; where the class does not read that, nobody loads such a file."""
    row = row_of(name)
    if row.refused:
        return
    stated = json.loads(small_config(name).to_json_string())
    for key in row.asked:
        for dropped, null in zip(DROPS[1:], (False, True), strict=True):
            config = copy.deepcopy(stated)
            section = section_of(config, row)
            if section.pop(key, None) is None:
                continue
            if null:
                section[key] = None
            if loads(config, row):
                check_refusal(check(config, dropped, LAYERS, row), name, row, null=null)


LLAMA4 = {"num_hidden_layers": 8, "interleave_moe_layer_step": 2}


@pytest.mark.parametrize(
    ("kind", "fields", "dropped", "key", "value"),
    [
        ("llama4", LLAMA4, (1, 4), "moe_layers", [2, 3, 5]),  # 1, 3, 5 and 7 have experts
        ("llama4_text", {**LLAMA4, "moe_layers": None}, (1, 4), "moe_layers", [2, 3, 5]),
        ("mllama", {"num_hidden_layers": 40}, (1, 4, 8), "cross_attention_layers", [2, 10, 15, 20, 25, 30, 35]),
        ("deepseek_v3", {"num_hidden_layers": 8}, (1, 4), "first_k_dense_replace", 2),
    ],
)
def test_layers_that_are_left_to_the_class_follow_by_their_numbers(kind, fields, dropped, key, value):
    """In plain numbers, where the tests above compute what they expect."""
    row, layers = FAMILIES[kind], fields["num_hidden_layers"]
    config = {"model_type": kind, **({row.section: fields} if row.section else fields)}
    kept = [layer for layer in range(layers) if layer not in dropped]
    assert reading(cut_config(config, row, layers, kept, "m"), row)[key] == value


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        ("qwen3", {"hidden_size": "wide"}, "hidden_size"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": "x"}, ""),
        ("gemma3_text", {"sliding_window_pattern": 0}, ""),
    ],
)
def test_nonsense_that_the_class_cannot_read_is_refused_in_one_line(kind, fields, named):
    config = {"model_type": kind, "num_hidden_layers": 8, **fields}
    with pytest.raises(
        CheckpointError, match=rf"leaves layer_types.* cannot read the rest .*{named}.*; give the values"
    ) as caught:
        cut_config(config, FAMILIES[kind], 8, range(6), "m")
    assert "\n" not in str(caught.value)


def test_a_list_of_the_wrong_length_is_named_with_its_file(tmp_path):
    types = {"layer_types": ["full_attention"] * 7}
    for kind, fields, key in [
        ("qwen3", types, "layer_types"),
        ("gemma3", {"text_config": types}, "text_config.layer_types"),
        ("flint", {"layer_types": ["full_attention"] * 9}, "layer_types"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            cut_config({"model_type": kind, **fields}, FAMILIES[kind], 8, range(6), str(tmp_path))
        assert str(caught.value).startswith(f"{tmp_path}: config.json's {key} has ")
        assert "entries, but the model has 8 layers; give one entry per layer" in str(caught.value)


def test_a_class_that_fills_a_list_of_another_length_is_no_guide():
    with pytest.raises(CheckpointError, match="leaves attn_layers to its class, where attn_layers has 6 entries"):
        cut_config({"model_type": "reformer", "num_hidden_layers": 8}, FAMILIES["reformer"], 8, range(6), "m")


def test_a_family_that_this_transformers_does_not_know_is_asked_in_vain(monkeypatch):
    import transformers

    monkeypatch.setattr(transformers, "CONFIG_MAPPING", {})
    config = {"model_type": "flint", "num_hidden_layers": 8}
    message = (
        f"leaves layer_types, .* to its class, but transformers {transformers.__version__} does not know the family"
    )
    with pytest.raises(CheckpointError, match=message):
        cut_config(config, FAMILIES["flint"], 8, range(6), "m")


def test_a_config_that_states_its_lists_is_cut_without_transformers():
    configs = {
        name: json.loads(small_config(name).to_json_string()) for name in ("llama", "qwen3", "gemma3", "cohere2")
    }
    code = (
        "import json, sys\n"
        "from prune.families.config import cut_config\n"
        "from prune.families.table import FAMILIES\n"
        "for name, config in json.loads(sys.argv[1]).items():\n"
        f"    cut_config(config, FAMILIES[name], {LAYERS}, (0, 2, 3, 5, 7), 'm')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, json.dumps(configs)], check=True)
