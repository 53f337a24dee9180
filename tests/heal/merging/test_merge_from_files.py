"""Merging a base that does not fit: both bases measured, and logits compared, layer by layer from the files."""

import json

import pytest

import heal.merging.agreement
from tests.support.commands import check_refused, run, succeed
from tests.support.healing import heal_small, merge_quietly
from tests.support.models import save_tiny


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


def both(adapter, out, monkeypatch, base="auto"):
    """`merge` of heal.json with the base loaded, and with it run from its files; in that nothing is ever loaded."""
    whole = merge_quietly(adapter, out / "whole", base=base)["merge"]
    with monkeypatch.context() as patch:
        patch.setattr(heal.merging.agreement, "_loaded", lambda _: pytest.fail("a model was loaded"))
        return whole, merge_quietly(adapter, out / "parts", base=base, max_memory=100_000)["merge"]


@pytest.mark.parametrize(
    ("family", "bits", "dtype"),
    [
        ("llama", 4, "float32"), ("gpt2", 8, "float32"), slow("llama", 4, "bfloat16"), slow("llama", 16, "bfloat16"),
        slow("llama", 8, "float32"), slow("gpt2", 4, "float32"), slow("gemma2", 4, "float32"),
        slow("gpt_neox", 8, "float32"),
    ],
)  # fmt: skip
def test_the_numbers_are_those_of_loaded_models(family, bits, dtype, sample_model, small_text, tmp_path, monkeypatch):
    model = save_tiny(tmp_path / "model", sample_model, family, shards="1MB")
    how = {"bits": bits, "dtype": dtype, "learning_rate": 3e-2, "alpha": 8}
    adapter = heal_small(model, small_text, tmp_path / "adapter", tokens=512, **how).out
    whole, parts = both(adapter, tmp_path, monkeypatch)
    assert parts["base"] == whole["base"]
    if bits < 16:
        assert parts["chosen"]["losses"] == pytest.approx(whole["chosen"]["losses"], abs=1e-4)
        assert len(set(parts["chosen"]["losses"].values())) == 2
    for name in ("tokens", "kl", "mean_abs", "max_abs"):
        assert parts["agreement"][name] == pytest.approx(whole["agreement"][name], abs=1e-4), name


def test_the_trained_function_is_that_of_the_dequantised_base(plain_adapter, tmp_path, monkeypatch):
    whole, parts = both(plain_adapter, tmp_path, monkeypatch, base="dequantised")
    assert parts["agreement"]["kl"] == pytest.approx(whole["agreement"]["kl"], abs=1e-5)
    assert parts["agreement"]["kl"] <= parts["agreement"]["bound"]


def test_the_command_says_in_one_line_that_it_streams(plain_adapter, tmp_path):
    done = succeed("heal", "merge", plain_adapter, "--out", tmp_path / "out", "--max-memory", "100KB")
    assert sum("layer by layer" in line for line in done.stderr.splitlines()) == 1
    document = json.loads((tmp_path / "out" / "heal.json").read_text())["merge"]
    assert document["chosen"]["by"] == "measured"
    refused = run("heal", "merge", plain_adapter, "--out", tmp_path / "no", "--max-memory", "much")
    check_refused(refused, 2, "--max-memory much: write a size such as 4GiB")
    shipped = run("heal", "merge", plain_adapter, "--out", tmp_path / "no", "--adapter-only", "--max-memory", "1GiB")
    check_refused(shipped, 2, "--max-memory does not go with --adapter-only")
