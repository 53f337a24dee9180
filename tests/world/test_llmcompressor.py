"""llm-compressor on the CPU: a cut in 4 bits by its GPTQ, which transformers loads."""

import pytest

from tests.support.other_tools import answer, installed


def test_a_cut_is_quantised_and_loads(cut_model, sample_heldout, tmp_path, checked):
    with installed("llmcompressor", "llmcompressor==0.14.0.1") as tool:
        version = tool.version("llmcompressor")
        found = answer(tool, "quantise_llmcompressor.py", cut_model, sample_heldout, folder=tmp_path)
        checked(
            version,
            f"the cut by GPTQ in 4 bits, calibrated on 8 rows of 128 tokens, loaded by {tool.version('transformers')}",
            found=f"{found['share']:.0%} of the bytes, KL to fp32 {found['kl']:.2g} nats",
        )
    assert found["share"] == pytest.approx(0.36, abs=0.02)  # the embeddings stay as they are
    assert 1e-3 < found["kl"] < 1  # rounding costs a model this small much; weights read wrongly are several nats away
