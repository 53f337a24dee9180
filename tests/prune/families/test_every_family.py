"""Every family of transformers' causal-LM mapping: cut exactly, or refused with the reason; and what the page says."""

import pytest
import transformers

from prune.families.table import FAMILIES, PLAIN
from tests.support.every_family import NEVER_SILENT, NOT_BUILT, own_name, save_small_model, small_config_without
from tests.support.verdicts import EXACT, PAGE, Verdict, families, judge, page, page_version, quiet

# One of each sort of config field, and those that most people have, for the runs that leave the slow tests out.
SOME = """
    bamba bart beam bert deepseek_v3 falcon_h1 gemma4 glm_moe_dsa gpt_neo inkling2_text jamba lfm2 llama4 minicpm3
    mllama musicgen nemotron_h qwen3_5 qwen3_next recurrent_gemma rwkv smollm3 xlm zamba2
    bloom cohere2 falcon gemma2 gemma3 gpt2 gptj llama mistral mixtral opt phi3 qwen2
"""

SOME_SILENT = {("flint", "mlp_only_layers"), ("llama4_text", "moe_layers"), ("mllama", "cross_attention_layers")}

_found: dict[str, Verdict] = {}
THE_PAGES_OWN = transformers.__version__ == page_version()
of_the_page = pytest.mark.skipif(not THE_PAGES_OWN, reason="the page was written for another transformers")
SILENT = [(name, key) for name in families() for key in FAMILIES.get(name, PLAIN).asked if name not in NOT_BUILT]


@pytest.mark.parametrize(
    "name", [name if name in SOME.split() else pytest.param(name, marks=pytest.mark.slow) for name in families()]
)
def test_a_cut_is_exact_or_refused(name, tmp_path):
    """A family that is in no table fails here with its name: judge() raises, or the page does not know it."""
    quiet()
    assert own_name(name) in FAMILIES
    verdict = _found[name] = judge(name, tmp_path)
    assert not THE_PAGES_OWN or f"`{name}`" in PAGE.read_text(encoding="utf-8"), "run `make families`"
    assert verdict.kind == EXACT or verdict.words


@of_the_page
@pytest.mark.slow
def test_the_page_says_what_the_run_finds():
    """After the tests above, in the order of the file; skipped where only some of them ran."""
    if set(_found) != set(families()):
        pytest.skip("not all families were judged in this run")
    verdicts = [_found[name] for name in families()]
    assert sum(verdict.kind == EXACT for verdict in verdicts) >= 125
    assert PAGE.read_text(encoding="utf-8") == page(verdicts)


@of_the_page
def test_the_page_names_every_family_of_the_mapping():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in families() if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("name", "key"), [case if case in SOME_SILENT else pytest.param(*case, marks=pytest.mark.slow) for case in SILENT]
)
def test_a_cut_is_exact_where_the_config_is_silent(name, key, tmp_path):
    """With weights: the class fills the field, in the full model and after the cut."""
    quiet()
    config = small_config_without(name, FAMILIES[own_name(name)].section, key)
    if config is None:
        pytest.skip("never stated")
    if (name, key) in NEVER_SILENT:
        with pytest.raises(TypeError):
            save_small_model(name, tmp_path, config)
        return
    verdict = judge(name, tmp_path, silent=key)
    assert verdict.kind == EXACT or verdict.words
