"""What becomes of a merged model whose logits cannot be compared, or are too far from those that were trained."""

import json
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForCausalLM

import heal.merging.agreement
from prune.common.errors import CheckpointError
from tests.support.checkpoints import same_weights
from tests.support.commands import succeed
from tests.support.healing import merge_quietly


def flat(text):
    return " ".join(text.split())


def test_a_comparison_that_does_not_fit_keeps_the_model_and_says_so(plain_adapter, tmp_path, monkeypatch):
    """Out of memory for the adapter as trained, or for the merged model; or any other failure of that."""
    no_memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    illegal = RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
    plain = merge_quietly(plain_adapter, tmp_path / "plain", base="dequantised", compare_logits=False)
    cases = [("trained_logits", no_memory, "out of memory"), ("merged_logits", no_memory, "out of memory")]
    cases += [("merged_logits", illegal, "CUDA error: an illegal memory access was encountered")]
    for number, (name, error, why) in enumerate(cases):
        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(heal.merging.agreement, name, Mock(side_effect=error))
            result = succeed("heal", "merge", plain_adapter, "--base", "dequantised", "--out", out)
        assert f"were not compared with those of the adapter as trained ({why})" in flat(result.stdout)
        document = json.loads((out / "heal.json").read_text())
        assert document["merge"]["not_compared"] == why
        assert "agreement" not in document["merge"]
        assert "were not compared" in (out / "README.md").read_text()
        assert same_weights(out, tmp_path / "plain")
    assert "not_compared" not in plain["merge"]


@pytest.mark.parametrize(("change", "says"), [(30.0, r"beyond the bound of 0\.\d+"), (float("nan"), "are not finite")])
def test_logits_that_are_too_far_apart_are_an_error_and_the_model_stays(
    change, says, plain_adapter, tmp_path, monkeypatch
):
    real = heal.merging.agreement.merged_logits

    def apart(*arguments, **named):
        logits = real(*arguments, **named)
        logits[:, 7] += change
        return logits

    monkeypatch.setattr(heal.merging.agreement, "merged_logits", apart)
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match=f"out is written, but its logits .*{says}.*do not use it"):
        merge_quietly(plain_adapter, out, base="dequantised")
    facts = json.loads((out / "heal.json").read_text())["merge"]
    if says == "are not finite":
        assert facts["not_compared"] == "its logits are not finite"
    else:
        assert facts["agreement"]["kl"] > facts["agreement"]["bound"] > 0
    AutoModelForCausalLM.from_pretrained(out)


def test_the_model_is_in_place_before_it_is_run(plain_adapter, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stood = []

    def look(folder, *_, **__):
        stood.append((folder, sorted(path.name for path in out.iterdir())))
        raise KeyboardInterrupt

    monkeypatch.setattr(heal.merging.agreement, "merged_logits", look)
    with pytest.raises(KeyboardInterrupt):
        merge_quietly(plain_adapter, out, base="dequantised")
    assert stood == [(out, sorted(path.name for path in out.iterdir()))]
    assert {"heal.json", "README.md", "config.json", "model.safetensors"} <= set(stood[0][1])
