"""Stock transformers, without Regrowth: what we write loads whole, and answers as it does with us."""

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from prune.checkpoint.source import Source
from prune.models.loading import load_model, load_tokenizer
from tests.support.other_tools import NEWEST, OLDEST, answer, installed

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "The capital of France is"


@pytest.fixture(scope="module", params=[OLDEST, NEWEST], ids=["oldest", "newest"])
def stock(request):
    """The oldest and the newest versions that Regrowth allows."""
    names = ("transformers", "safetensors", "accelerate")
    with installed(f"transformers-{request.param.stem}", *names, constraints=request.param) as made:
        yield made


@pytest.fixture(scope="module", params=["cut_model", "patched_model", "healed_model"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def ours(model):
    """Logits of the prompt, and the prompt with 16 more tokens, in this process."""
    source = Source(model, model.name)
    loaded, ids = load_model(source), load_tokenizer(source)(PROMPT, return_tensors="pt")
    with torch.no_grad():
        logits = loaded(**ids).logits[0]
    return logits, loaded.generate(**ids, max_new_tokens=16, do_sample=False)[0].tolist()


def test_it_loads_whole_and_writes_the_same(stock, model, ours, tmp_path, checked):
    what = f"`from_pretrained` of the {model.name} model: nothing missing, equal logits and tokens"
    checked(stock.version("transformers"), what)
    found = answer(stock, "load_and_generate.py", model, PROMPT, folder=tmp_path)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= set(found["amiss"])
    assert not any(found["amiss"].values()), found["amiss"]
    assert found["dtype"] == "torch.float32"
    logits, tokens = ours
    assert (torch.tensor(found["logits"]) - logits).abs().max() < 1e-3
    assert found["tokens"] == tokens
    assert len(tokens) > len(PROMPT.split()) + 8


def test_the_pipeline_of_the_readme(stock, healed_model, tmp_path, checked):
    """The line as it stands there, in a folder with a model of that name. It samples, here from a seed."""
    (line,) = re.findall(r"^python -c .*pipeline.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    python, option, code = shlex.split(line)
    assert (python, option) == ("python", "-c")
    seeded = f"from transformers import set_seed; set_seed(0); {code}"
    (tmp_path / "healed").symlink_to(healed_model)
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [stock.python, option, seeded], cwd=tmp_path, env=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ((written,),) = [row.values() for row in ast.literal_eval(done.stdout.strip().splitlines()[-1])]
    assert written.startswith(PROMPT)
    source = Source(healed_model, "healed")
    ids = load_tokenizer(source)(written, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = load_model(source)(input_ids=ids, labels=ids).loss.item()
    checked(stock.version("transformers"), "README's `pipeline` line: the healed model writes on")
    assert len(written) > len(PROMPT)
    assert loss < 6  # nats per token: words that our own process finds likely; one that is drawn blindly has 10.8
