"""Every family of transformers' causal-LM mapping: cut exactly, or refused with the reason; and what the page says."""

import pytest

from tests.family_verdicts import EXACT, PAGE, Verdict, families, judge, page, quiet

# One of each sort of config field, for the runs that leave the slow tests out.
SOME = {
    "bamba", "bart", "bert", "deepseek_v3", "falcon_h1", "gemma4", "glm_moe_dsa", "gpt_neo", "jamba", "lfm2", "llama4",
    "minicpm3", "mllama", "nemotron_h", "qwen3_5", "qwen3_next", "recurrent_gemma", "rwkv", "smollm3", "xlm", "zamba2",
    "inkling2_text", "beam", "musicgen",
}  # fmt: skip

_found: dict[str, Verdict] = {}


@pytest.mark.parametrize(
    "name", [name if name in SOME else pytest.param(name, marks=pytest.mark.slow) for name in families()]
)
def test_a_cut_is_exact_or_refused(name, tmp_path):
    """A family that is in no table fails here with its name: judge() raises, or the page does not know it."""
    quiet()
    verdict = _found[name] = judge(name, tmp_path)
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8"), "run `make families`"
    assert verdict.kind == EXACT or verdict.words


@pytest.mark.slow
def test_the_page_says_what_the_run_finds():
    """After the tests above, in the order of the file; skipped where only some of them ran."""
    if set(_found) != set(families()):
        pytest.skip("not all families were judged in this run")
    verdicts = [_found[name] for name in families()]
    assert sum(verdict.kind == EXACT for verdict in verdicts) >= 125
    assert PAGE.read_text(encoding="utf-8") == page(verdicts)


def test_the_page_names_every_family_of_the_mapping():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in families() if f"`{name}`" not in text] == []
