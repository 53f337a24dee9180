"""bitsandbytes on the CPU, by stock transformers: a cut in 8 and in 4 bits, and a QLoRA adapter on the latter."""

import math

import pytest

from tests.support.other_tools import NEWEST, answer, installed

# Nats. Rounding costs a model this small much; one whose weights were read wrongly is several nats away.
BOUNDS = {"load_in_8bit": 0.2, "load_in_4bit": 1.0}


@pytest.fixture(scope="module")
def quantised(cut_model, qlora_healed_model, qlora_adapter, sample_heldout, tmp_path_factory):
    """The version, and mean KL of next-token distributions in each way."""
    names = ("bitsandbytes", "transformers", "accelerate", "peft", "safetensors")
    folders = (cut_model, qlora_healed_model, qlora_adapter)
    with installed("bitsandbytes", *names, constraints=NEWEST) as tool:
        version = tool.version("bitsandbytes")
        script = "quantise_bitsandbytes.py"
        return version, answer(tool, script, *folders, sample_heldout, folder=tmp_path_factory.mktemp("bitsandbytes"))


@pytest.mark.parametrize("way", BOUNDS)
def test_a_cut_is_quantised(way, quantised, checked):
    version, found = quantised
    checked(version, f"the cut with `{way}` on the CPU", found=f"KL to fp32 {found[way]:.2g} nats")
    assert math.isfinite(found[way])
    assert 1e-5 < found[way] < BOUNDS[way]


def test_a_qlora_adapter_on_it_is_the_function_that_was_merged(quantised, checked):
    version, found = quantised
    told = f"KL to our merged model {found['adapter']:.1g} nats"
    checked(version, "`heal qlora`'s adapter on the cut with `load_in_4bit`, by stock peft", found=told)
    assert found["healed"] > 0.1  # the adapter and the rounding do something
    assert found["adapter"] < 0.05  # stock bitsandbytes multiplies in bf16 on CPUs that can
