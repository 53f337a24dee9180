"""GGUF: llama.cpp's own converter reads what Regrowth writes, and llama.cpp predicts what transformers does.

Every next-token distribution is compared whole: KL(transformers in fp32 || llama.cpp), in nats.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.shared.environments import Environment
from prune import cut, plan_cut
from tests.support.llama_cpp import CONVERTER, SERVER, SOURCE, convert, removed, served, unpack_converter
from tests.support.models import tiny
from tests.support.other_tools import installed

ROOT = Path(__file__).resolve().parents[2]
PROMPTS, LENGTH = 4, 50
KINDS = {"f16": 0.005, "f32": 0.005, "q8_0": 0.05}  # the largest mean KL


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[Environment]:
    requirements = (SERVER, "gguf", "sentencepiece")
    with installed("llama-cpp", *requirements, linked=("torch", "transformers")) as tool:
        yield tool


@pytest.fixture(scope="module")
def converter(llama_cpp, tmp_path_factory) -> Path:
    return unpack_converter(llama_cpp, tmp_path_factory.mktemp("llama.cpp"))


@pytest.fixture(scope="module")
def prompts(sample_heldout) -> list[str]:
    passages = [json.loads(line)["text"] for line in sample_heldout.read_text().splitlines()[:40]]
    return [text for text in passages if len(text) > 8 * LENGTH][:PROMPTS]


@cache
def _ours(model: Path, prompts: tuple[str, ...]) -> list[tuple[list[int], torch.Tensor]]:
    """Of each prompt its first tokens and [tokens, vocabulary], the log-probabilities after each."""
    tokenizer, loaded = AutoTokenizer.from_pretrained(model), _loaded(model)
    return [(ids, _distributions(loaded, ids)) for ids in (tokenizer(one).input_ids[:LENGTH] for one in prompts)]


def _loaded(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def _distributions(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)


def _divergences(llama, ids, ours, positions):
    """KL at each of the positions, and whether both hold the same token for the likeliest."""
    vocabulary = ours.shape[-1]
    for position in positions:
        theirs = llama.distribution(ids[: position + 1], vocabulary)
        one = ours[position]
        yield float((one.exp() * (one - theirs)).sum()), bool(one.argmax() == theirs.argmax())


def _compare(tool, gguf, model, prompts, step):
    """Mean KL, the share of positions with the same likeliest token, and their number: at every `step`-th position."""
    found = []
    with served(tool, gguf) as llama:
        for (ids, ours), text in zip(_ours(model, tuple(prompts)), prompts, strict=True):
            assert llama.tokens(text)[:LENGTH] == ids
            found += _divergences(llama, ids, ours, range(step - 1, len(ids), step))
    kl, same = torch.tensor(found, dtype=torch.float64).T
    return float(kl.mean()), float(same.mean()), len(found)


def _said(kl, same, number):
    return f"mean KL {kl:.1g} nats, same likeliest token {100 * same:.1f} % of {number}"


@pytest.mark.parametrize(("kind", "step"), [("f16", 2), ("f32", 5), ("q8_0", 5)])
def test_a_cut_predicts_in_llama_cpp_as_in_transformers(
    kind, step, llama_cpp, converter, cut_model, prompts, tmp_path, checked
):
    gguf = convert(llama_cpp, converter, cut_model, tmp_path / "cut.gguf", kind)
    kl, same, number = _compare(llama_cpp, gguf, cut_model, prompts, step)
    checked(f"{SOURCE} (converter), {SERVER}", f"the cut as GGUF in {kind}", _said(kl, same, number))
    assert kl < KINDS[kind]
    assert same >= 0.99 or kind == "q8_0"
    removed(gguf)


def test_the_healed_model_by_the_line_of_readme(llama_cpp, converter, healed_model, prompts, tmp_path, checked):
    (line,) = [line for line in (ROOT / "README.md").read_text().splitlines() if CONVERTER in line]
    (tmp_path / "healed").symlink_to(healed_model)
    (tmp_path / "llama.cpp").symlink_to(converter)
    path = f"{llama_cpp.python.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PATH": path}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    kl, same, number = _compare(llama_cpp, tmp_path / "healed.gguf", healed_model, prompts, 1)
    checked(f"{SOURCE} (converter), {SERVER}", "the healed model as GGUF in f16", _said(kl, same, number))
    assert kl < KINDS["f16"]
    assert same >= 0.99
    removed(tmp_path / "healed.gguf")


# Layers that differ by their place: some families' kinds are in the file, others' are a period in llama.cpp's own code.

SHAPE = {
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512,
    "pad_token_id": None, "initializer_range": 0.15,
}  # fmt: skip
GEMMA = {  # as in the real ones, the scale of attention is the head's
    "sliding_window": 16, "query_pre_attn_scalar": 32,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
}  # fmt: skip
OLMO = {
    "sliding_window": 16, "tie_word_embeddings": False,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
}  # fmt: skip
SMOL = {"no_rope_layers": [1, 1, 1, 0] * 2, "tie_word_embeddings": True}
SCALED = {**GEMMA, "query_pre_attn_scalar": 8}  # of no model, but as the largest is once it has lost a layer
EXAONE = {**OLMO, "sliding_window_pattern": 4}
COHERE = {  # the converter asks for rotary_pct, which the real ones state
    "sliding_window": 16, "rotary_pct": 1.0, "logit_scale": 1.0,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
}  # fmt: skip
OSS = {**OLMO, "layer_types": ["sliding_attention", "full_attention"] * 3, "num_local_experts": 4}
LAGUNA = {**OLMO, "layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 2}


@pytest.mark.parametrize(
    ("family", "fields", "dropped", "agrees"),
    [
        pytest.param("olmo3", OLMO, "1-2", True, id="olmo3, any layers"),
        pytest.param("gemma3_text", GEMMA, "0-5", True, id="gemma3, a whole period"),
        pytest.param("gemma3_text", GEMMA, "1-2", False, id="gemma3, a part"),
        pytest.param("gemma3_text", SCALED, "0-5", False, id="gemma3, another scale"),
        pytest.param("exaone4", EXAONE, "0-3", False, id="exaone4, not 64 layers"),
        pytest.param("cohere2", COHERE, "0-3", True, id="cohere2, a whole period"),
        pytest.param("cohere2", COHERE, "1-2", False, id="cohere2, a part"),
        pytest.param("gpt_oss", OSS, "2-3", True, id="gpt_oss, a whole period"),
        pytest.param("gpt_oss", OSS, "2", False, id="gpt_oss, a part"),
        pytest.param("laguna", LAGUNA, "0-3", True, id="laguna, a whole period"),
        pytest.param("laguna", LAGUNA, "1-2", False, id="laguna, a part"),
        pytest.param("smollm3", SMOL, "0-3", True, id="smollm3, a whole period"),
        pytest.param("smollm3", SMOL, "1-2", False, id="smollm3, a part"),
    ],
)
def test_layers_that_differ(
    family, fields, dropped, agrees, llama_cpp, converter, sample_model, prompts, tmp_path, checked
):
    tokenizer = AutoTokenizer.from_pretrained(sample_model)
    (kinds,) = [value for value in fields.values() if isinstance(value, list)]
    tiny(family, layers=len(kinds), vocab_size=len(tokenizer), **SHAPE, **fields).save_pretrained(tmp_path / "full")
    tokenizer.save_pretrained(tmp_path / "full")
    plan = plan_cut(tmp_path / "full", layers=dropped)
    assert (plan.llama_cpp == "") == agrees
    pruned = cut(plan, tmp_path / "pruned", show_progress=False)
    gguf = convert(llama_cpp, converter, pruned, tmp_path / "pruned.gguf", "f32")
    ((ids, ours),) = _ours(pruned, (prompts[0],))
    with served(llama_cpp, gguf) as llama:
        found = list(_divergences(llama, ids, ours, range(40, LENGTH, 2)))
    kl = sum(one for one, _ in found) / len(found)
    reason = f": {plan.llama_cpp}" if plan.llama_cpp else ""
    what = f"a random {family} of {len(kinds)} layers without {dropped}"
    checked(f"{SOURCE} (converter), {SERVER}", what, f"mean KL {kl:.1g} nats{reason}")
    assert (kl < 0.005) == agrees
    removed(tmp_path / "full", pruned, gguf)
