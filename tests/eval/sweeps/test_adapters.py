"""Adapters that a sweep adds to a cut: they score as the healed model does, and what cannot be swept is refused."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval import sweep
from eval.runs.prose import draw_prose
from eval.sweeps.settings import SweepSettings
from prune import cut, plan_cut
from prune.checkpoint.identity import model_identity
from prune.common.errors import CheckpointError, UsageError
from tests.support.sweeps import FEW, agree, by_hflm


@pytest.fixture(scope="module")
def healed(tiny, tmp_path_factory):
    """Makes adapters on layers of a cut of the tiny llama (layers 3 and 4 dropped), as `heal` writes them."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("healed")
    cut(plan_cut(tiny("llama"), layers="3,4"), folder / "cut")

    def make(name, layers):
        torch.manual_seed(1)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder / "cut"),
            LoraConfig(r=2, lora_alpha=8, target_modules=["down_proj", "q_proj"], layers_to_transform=layers),
        )
        model.peft_config["default"].base_model_name_or_path = str(folder / "cut")
        with torch.no_grad():
            for module, weight in model.named_parameters():
                if "lora_B" in module:
                    weight.normal_(0, 0.3)
        model.save_pretrained(folder / name)
        document = {
            "format": "regrowth.heal/2",
            "adapted": [f"model.layers.{layer}.mlp.down_proj" for layer in layers],
            "quantised": [],
            "base": model_identity(folder / "cut"),
        }
        (folder / name / "heal.json").write_text(json.dumps(document))
        return folder / name, model

    return make


def test_an_adapter_after_the_cut_is_swept_too(healed, tiny, sample_questions, short_heldout):
    folder, model = healed("after", [3, 5])
    other, _ = healed("later", [4])
    options = {"sizes": "2", "starts": "3", "chat_template": "off", "text": str(short_heldout), **FEW}
    found = sweep(tiny("llama"), data=sample_questions, adapters=[folder, other], **options)
    assert [v.label for v in found.plan.variants] == ["full", "2@3", "2@3+after", "2@3+later"]
    agree(found, 2, by_hflm(folder.parent / "cut", sample_questions, model=model))
    agree(found, 1, by_hflm(folder.parent / "cut", sample_questions))
    assert abs(found.tasks[0].nll[2] - found.tasks[0].nll[1]).max() > 0.1
    assert abs(found.tasks[0].nll[3] - found.tasks[0].nll[1]).max() > 0.01
    assert len(found.document.healed) == 2 * len(found.tasks)
    assert found.costs.domains["math"].keys() == {2}
    plain = AutoModelForCausalLM.from_pretrained(folder.parent / "cut")
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "cut")
    settings = SweepSettings.of(text=str(short_heldout), data=sample_questions, domains="math")
    (windows,) = draw_prose(settings, tokenizer, found.document.settings["max_length"]).values()
    full, cut_apart, *with_adapter = [row.nats_per_token for row in found.document.prose]
    assert [row.variant for row in found.document.prose] == ["full", "2@3", "2@3+after", "2@3+later"]
    assert cut_apart == pytest.approx(_nats_per_token(plain, windows), abs=1e-4)
    assert with_adapter[0] == pytest.approx(_nats_per_token(model, windows), abs=1e-4)
    assert len({full, cut_apart, *with_adapter}) == 4


@torch.no_grad()
def _nats_per_token(model, windows):
    losses = [model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss for ids in windows]
    counts = [len(ids) - 1 for ids in windows]
    return float(sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts))


def test_an_adapter_that_cannot_be_swept_is_refused(healed, tiny, sample_questions, tmp_path):
    before, _ = healed("before", [1, 4])
    with pytest.raises(UsageError, match=r"layers before the cut \(1 to 1, cut at 3\)"):
        sweep(tiny("llama"), data=sample_questions, sizes="2", adapters=[before], **FEW)
    after, _ = healed("fits", [3])
    with pytest.raises(CheckpointError, match="which is not"):
        sweep(tiny("gpt2"), data=sample_questions, sizes="2", adapters=[after], **FEW)
    with pytest.raises(CheckpointError, match=r"heal\.json does not exist"):
        sweep(tiny("llama"), data=sample_questions, sizes="2", adapters=[tmp_path], **FEW)
    patched = shutil.copytree(after.parent / "cut", tmp_path / "patched")
    (patched / "heal.json").write_text("{}")
    config = json.loads((after / "adapter_config.json").read_text())
    (after / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(patched)}))
    with pytest.raises(UsageError, match="patched or merged after its cut"):
        sweep(tiny("llama"), data=sample_questions, sizes="2", adapters=[after], **FEW)
