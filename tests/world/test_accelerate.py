"""accelerate spreads a model over memory and disk, to the same logits."""

import pytest
import torch

from prune.checkpoint.source import Source
from prune.models.loading import load_model, load_tokenizer
from tests.support.other_tools import NEWEST, OLDEST, answer, installed

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def wanted(healed_model):
    source = Source(healed_model, "healed")
    with torch.no_grad():
        return load_model(source)(**load_tokenizer(source)(PROMPT, return_tensors="pt")).logits[0]


@pytest.mark.parametrize("constraints", [OLDEST, NEWEST], ids=["oldest", "newest"])
def test_a_model_that_memory_does_not_hold_is_spread_over_the_disk(
    constraints, healed_model, wanted, tmp_path, checked
):
    names = ("accelerate", "transformers", "safetensors")
    with installed(f"accelerate-{constraints.stem}", *names, constraints=constraints) as tool:
        ways = '`device_map="auto"` and `load_checkpoint_and_dispatch`, the most of the healed model on the disk'
        checked(tool.version("accelerate"), f"{ways}: equal logits")
        found = answer(tool, "spread.py", healed_model, PROMPT, tmp_path / "offload", folder=tmp_path)
    for way in ("auto", "dispatched"):
        assert found[way]["places"] == ["cpu", "disk"]
        assert (torch.tensor(found[way]["logits"]) - wanted).abs().max() < 1e-3
