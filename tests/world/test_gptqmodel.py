"""GPTQModel on the CPU: a cut in 4 bits, saved and loaded."""

from tests.support.other_tools import answer, installed

# What GPTQModel asks for, but torch: it asks for one that is newer than Regrowth is tested with.
NEEDS = (
    "accelerate", "datasets>=5.1", "defuser>=0.0.28", "device-smi>=0.5.7", "dill", "filelock", "jinja2",
    "logbar>=0.4.15", "ninja", "numpy>=2.4.6", "packaging", "pillow", "protobuf>=7.36.2", "pyarrow>=26",
    "pypcre>=0.6.4", "requests", "safetensors", "threadpoolctl", "tokenicer>=0.0.14", "torchao>=0.18",
    "transformers>=5.20.2,<5.25",
)  # fmt: skip


def test_a_cut_is_quantised_and_loads(cut_model, sample_heldout, tmp_path, checked):
    with installed("gptqmodel", *NEEDS, bare=["gptqmodel==7.7.0"]) as tool:
        version = tool.version("gptqmodel")
        found = answer(tool, "quantise_gptqmodel.py", cut_model, sample_heldout, folder=tmp_path)
    told = f"{found['share']:.0%} of the bytes, KL to fp32 {found['kl']:.2g} nats"
    checked(version, "the cut by GPTQ in 4 bits, calibrated on 8 rows of 128 tokens, saved and loaded", found=told)
    assert found["share"] < 0.5
    assert 1e-3 < found["kl"] < 1  # rounding costs a model this small much; weights read wrongly are several nats away
