"""A model writes the same text by transformers and by vLLM, for which a stand-in runs in a real second process."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prune.checkpoint.source import Source
from prune.models.generation import VllmWriter, write_answers

STUB = Path(__file__).parents[2] / "support" / "stub_vllm"
PROMPTS = [(1, 300, 301, 302), (1, 400), (1, 500, 501)]


@pytest.fixture
def loaded(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def writer(tiny_llama, loaded, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = VllmWriter(Source(tiny_llama, "tiny"), loaded[1], max_length=64, dtype="float32")
    yield made
    made.close()


def test_vllm_writes_as_transformers_does(loaded, writer):
    greedy = write_answers(*loaded, PROMPTS, 12, None)
    assert writer.write(PROMPTS, 12, None) == greedy
    drawn = writer.write(PROMPTS, 12, 3)
    assert drawn == writer.write(PROMPTS, 12, 3) != writer.write(PROMPTS, 12, 4)
    assert drawn != greedy
    same = writer.write(PROMPTS[:1] * 2, 12, 3)
    assert same[0] != same[1]  # each prompt has its own draws


def test_answers_are_drawn_by_the_seed_and_end_with_their_end(loaded):
    model, tokenizer = loaded
    state = torch.random.get_rng_state()
    drawn = write_answers(model, tokenizer, PROMPTS, 12, 3)
    assert drawn == write_answers(model, tokenizer, PROMPTS, 12, 3) != write_answers(model, tokenizer, PROMPTS, 12, 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    model.generation_config.eos_token_id = [drawn[0][2]]
    ended = write_answers(model, tokenizer, PROMPTS, 12, 3)[0]
    assert ended == drawn[0][: drawn[0].index(drawn[0][2]) + 1]
