"""Which cuts llama.cpp would run as another model: in some families it goes by a layer's number, or by the depth.

tests/world/test_gguf.py holds some of this against llama.cpp itself.
"""

import json

import pytest
from typer.testing import CliRunner

from prune.cli import app
from prune.cutting.card import model_card
from prune.cutting.cut import cut
from prune.cutting.plan import CutPlan
from prune.cutting.planning import plan_cut
from prune.families.config import cut_config
from prune.families.llama_cpp import run_otherwise
from prune.families.table import FAMILIES
from tests.support.models import tiny

SLIDING, FULL, CHUNKED = "sliding_attention", "full_attention", "chunked_attention"
PATTERNS = {  # one period of each family, as the real ones have it
    "afmoe": {"layer_types": [SLIDING, SLIDING, SLIDING, FULL]},
    "cohere2": {"layer_types": [SLIDING, SLIDING, SLIDING, FULL]},
    "gemma2": {"layer_types": [SLIDING, FULL]},
    "gemma3_text": {"layer_types": [SLIDING, SLIDING, SLIDING, SLIDING, SLIDING, FULL]},
    "gpt_oss": {"layer_types": [SLIDING, FULL]},
    "laguna": {"layer_types": [FULL, SLIDING, SLIDING, SLIDING]},
    "llama4_text": {"layer_types": [CHUNKED, CHUNKED, CHUNKED, FULL], "no_rope_layers": [1, 1, 1, 0]},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
}


def config(family, periods=3, **fields):
    """A config.json of so many periods, and the number of layers in one."""
    pattern = PATTERNS[family]
    period = len(next(iter(pattern.values())))
    lists = {key: value * periods for key, value in pattern.items()}
    return {"model_type": family, "num_hidden_layers": period * periods, **lists, **fields}, period


def said(config, dropped):
    """What is said of a cut of a config.json."""
    family = FAMILIES[config["model_type"]]
    layers = (config[family.section] if family.section else config)["num_hidden_layers"]
    kept = [layer for layer in range(layers) if layer not in dropped]
    return run_otherwise(config, cut_config(config, family, layers, kept, "the model"), family.section)


@pytest.mark.parametrize("family", PATTERNS)
def test_a_block_is_told_of_unless_the_rest_is_still_the_pattern(family):
    full, period = config(family, periods=2)
    for n in range(1, period + 1):
        for start in range(2 * period - n + 1):
            kept = [layer for layer in range(2 * period) if not start <= layer < start + n]
            still = all(
                [whole[layer] for layer in kept] == whole[: len(kept)]
                for whole in (pattern * 2 for pattern in PATTERNS[family].values())
            )
            reason = said(full, range(start, start + n))
            assert bool(reason) != still, (start, n, reason)
            assert still or reason.endswith(f"; drop whole periods of {period} layers")
            assert still or n != period


def test_the_first_layer_that_is_wrong_is_named():
    full, _ = config("gemma3_text")
    assert said(full, (1, 2)).startswith(
        "it goes by a layer's number, full attention in layers 5, 11, ... alone, which is wrong of layer 3 of the cut;"
    )
    full, _ = config("smollm3")
    assert "no RoPE in layers 3, 7, ... alone, which is wrong of layer 1 of" in said(full, (1, 2))


def test_scattered_layers_that_keep_the_order_are_fine():
    full, _ = config("smollm3")
    assert said(full, (1, 3, 5, 6)) == ""
    assert said(full, (1, 3, 5, 7)) != ""


def test_whole_periods_do_not_mend_what_the_source_lacks_already():
    full, period = config("smollm3")
    full["no_rope_layers"][0] = 0
    assert said(full, range(period, 2 * period)).endswith("vLLM runs it as it is")


def test_a_list_left_to_the_class_is_judged_too():
    full = {"model_type": "gemma2", "num_hidden_layers": 6}
    assert said(full, (2,)) != ""
    assert said(full, (2, 3)) == ""


def test_no_sliding_window_no_kinds():
    full, _ = config("gemma3_text", sliding_window=None)
    assert said(full, (1, 2)) == ""


def test_llama_4_without_chunks_has_rope_everywhere():
    full, _ = config("llama4_text")
    full |= {"layer_types": [FULL] * 12, "no_rope_layers": [1] * 12, "attention_chunk_size": None}
    assert said(full, (1, 2)) == ""


@pytest.mark.parametrize("stated", [{}, {"moe_layers": [1, 3, 5, 7, 9, 11]}], ids=["left to the class", "stated"])
def test_llama_4_with_experts_in_every_second_layer_keeps_its_step(stated):
    """llama.cpp reads the step of Maverick and no list, so its GGUF is right where the kept layers still follow it."""
    full, period = config("llama4_text", interleave_moe_layer_step=2, **stated)
    kept = [layer for layer in range(12) if layer not in range(period, 2 * period)]
    cut = cut_config(full, FAMILIES["llama4_text"], 12, kept, "the model")
    assert (cut["interleave_moe_layer_step"], cut["moe_layers"]) == (2, [1, 3, 5, 7])
    assert said(full, range(period, 2 * period)) == ""


def test_llama_4_loses_its_step_where_the_kept_layers_do_not_follow_it():
    """The list alone says then which layers have experts, and llama.cpp takes all of them for such."""
    full, _ = config("llama4_text", interleave_moe_layer_step=2)
    full |= {"layer_types": [FULL] * 12, "no_rope_layers": [1] * 12, "attention_chunk_size": None}
    cut = cut_config(full, FAMILIES["llama4_text"], 12, [0, *range(2, 12)], "the model")
    assert "interleave_moe_layer_step" not in cut
    assert cut["moe_layers"] == [2, 4, 6, 8, 10]
    reason = said(full, (1,))
    assert reason.startswith("it takes all layers for layers with experts")
    assert reason.endswith("; drop whole periods of the layers with and without experts")
    assert said(full, (1, 2)) == ""


def test_a_step_that_the_list_of_a_llama_4_contradicts_is_told_of():
    """Where config.json has a list, transformers goes by that, and llama.cpp by the step all the same."""
    full, period = config("llama4_text", interleave_moe_layer_step=2, moe_layers=[1, 2, 5])
    reason = said(full, range(2 * period, 3 * period))
    assert "layers with experts" in reason
    assert reason.endswith("vLLM runs it as it is")


@pytest.mark.parametrize(
    ("family", "layers", "heads", "scalar", "period", "right"),
    [
        ("gemma2", 46, {"hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128}, 144, 2, False),  # 27B
        ("gemma2", 42, {"hidden_size": 3584, "num_attention_heads": 16, "head_dim": 256}, 256, 2, True),  # 9B
        ("gemma3", 62, {"hidden_size": 5376, "num_attention_heads": 32, "head_dim": 128}, 168, 6, False),  # 27B
        ("gemma3", 48, {"hidden_size": 3840, "num_attention_heads": 16, "head_dim": 256}, 256, 6, True),  # 12B
    ],
)
def test_the_largest_gemmas_lose_their_scale_of_attention_with_their_depth(
    family, layers, heads, scalar, period, right
):
    section = {"num_hidden_layers": layers, **heads, "query_pre_attn_scalar": scalar}
    nested = {"model_type": family, "text_config": {"model_type": "gemma3_text", **section}}
    full = nested if family == "gemma3" else {"model_type": family, **section}
    reason = said(full, range(period, 2 * period))
    assert (reason == "") == right
    if not right:
        assert f"scales attention by 128 where config.json says {scalar}" in reason
        assert reason.endswith("vLLM runs it as it is")
        assert run_otherwise(full, full, FAMILIES[family].section) == ""


def test_exaone_4_has_windows_at_64_layers_alone():
    full = {"model_type": "exaone4", "num_hidden_layers": 64, "layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 16}
    full["sliding_window"] = 4096
    assert "unless a model has 64 layers, and the cut has 60" in said(full, range(4, 8))
    small = {"model_type": "exaone4", "num_hidden_layers": 30, "layer_types": [FULL] * 30, "sliding_window": None}
    assert said(small, (3, 4)) == ""


@pytest.mark.parametrize("family", ["olmo3", "mellum", "exaone_moe", "granite_swa", "cohere2_moe"])
def test_what_the_gguf_says_of_each_layer_may_be_cut_anywhere(family):
    full = {"model_type": family, "num_hidden_layers": 8, "layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 2}
    assert said(full, (1, 2)) == ""


# --- where it is told ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    tiny("gemma2", layers=6, query_pre_attn_scalar=16).save_pretrained(folder)
    return folder


def test_prune_cut_says_it_in_one_line_before_anything_is_written(gemma):
    told = CliRunner().invoke(app, ["cut", str(gemma), "--layers", "2", "--dry-run"])
    lines = [line for line in told.stderr.splitlines() if "llama.cpp" in line]
    assert len(lines) == 1
    assert lines[0].startswith("Warning: in llama.cpp (GGUF) this cut is another model: it goes by a layer's number")
    quiet = CliRunner().invoke(app, ["cut", str(gemma), "--layers", "2-3", "--dry-run"])
    assert quiet.exit_code == told.exit_code == 0
    assert "llama.cpp" not in quiet.output


def test_the_plan_keeps_it(gemma, tmp_path):
    out = tmp_path / "pruned"
    told = CliRunner().invoke(app, ["cut", str(gemma), "--layers", "2", "--out", str(out), "--json"])
    reason = json.loads(told.stdout)["llama_cpp"]
    assert reason.endswith("drop whole periods of 2 layers")
    plan = CutPlan.read(out / "prune_plan.json")
    assert plan.llama_cpp == reason
    assert f"| in llama.cpp | another model: {reason} |" in model_card(plan, "pruned")
    assert f"| in llama.cpp | another model: {reason} |" in (out / "README.md").read_text()


def test_plans_from_before_it_was_told_are_read(gemma, tmp_path):
    out = cut(plan_cut(gemma, layers="2"), tmp_path / "pruned", show_progress=False)
    document = json.loads((out / "prune_plan.json").read_text())
    del document["llama_cpp"]
    (out / "old.json").write_text(json.dumps(document))
    assert CutPlan.read(out / "old.json").warnings == []


def test_nothing_is_said_of_a_llama(sample_model):
    plan = plan_cut(sample_model, layers="3,7-9")
    assert plan.llama_cpp == ""
    assert plan.warnings == []
