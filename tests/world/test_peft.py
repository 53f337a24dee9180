"""Stock peft, without Regrowth: our adapters on the cut, and the one that is for the full model."""

import pytest
import torch

from prune.checkpoint.source import Source
from prune.models.loading import load_model, load_tokenizer
from tests.support.other_tools import NEWEST, OLDEST, answer, installed

PROMPT = "The capital of France is"


@pytest.fixture(scope="module", params=[OLDEST, NEWEST], ids=["oldest", "newest"])
def peft(request):
    """The oldest and the newest versions that Regrowth allows."""
    names = ("peft", "transformers", "safetensors", "accelerate")
    with installed(f"peft-{request.param.stem}", *names, constraints=request.param) as made:
        yield made


@pytest.fixture(scope="module")
def found(peft, cut_model, adapter, sample_model, adapter_only, tmp_path_factory):
    folders = (cut_model, adapter, sample_model, adapter_only)
    return answer(peft, "adapt.py", *folders, PROMPT, folder=tmp_path_factory.mktemp("peft"))


@pytest.fixture(scope="module")
def ours(cut_model, healed_model):
    """Logits of the cut and of our merge, in this process."""

    def logits(folder):
        source = Source(folder, folder.name)
        with torch.no_grad():
            return load_model(source)(**load_tokenizer(source)(PROMPT, return_tensors="pt")).logits[0]

    return logits(cut_model), logits(healed_model)


def apart(found, wanted):
    return (torch.tensor(found) - wanted).abs().max()


def test_the_adapter_on_the_cut_is_the_healed_model(peft, found, ours, checked):
    checked(peft.version("peft"), "our adapter on the cut: the logits of our merged model; switched off, of the cut")
    cut, healed = ours
    assert (cut - healed).abs().max() > 0.1  # the adapter does something
    assert apart(found["adapter"], healed) < 1e-3
    assert apart(found["switched off"], cut) < 1e-3


def test_merge_and_unload_gives_our_merge(peft, found, ours, checked):
    checked(peft.version("peft"), "`merge_and_unload` gives the logits of `heal merge`")
    assert apart(found["merged"], ours[1]) < 1e-3


def test_the_adapter_only_one_makes_the_healed_model_of_the_full_one(peft, found, ours, checked):
    checked(peft.version("peft"), "the adapter of `--adapter-only` on the full model: the logits of our merged model")
    assert found["layers"] == 24
    assert apart(found["adapter only"], ours[1]) < 1e-3
