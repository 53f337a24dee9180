"""Likeness of fast and slow states by depth: a model whose states part at a known layer, and real prompts."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from eval.asking.tasks import plan_tasks
from eval.depth.similarity.fast_slow import FastSlowSimilarity, compare_states, fast_slow_similarity
from eval.depth.similarity.pairs import Prompt, PromptPair, pair_prompts
from eval.runs.run import run
from eval.runs.samples import hash_prompt
from eval.settings import Settings
from prune.common.errors import RegrowthError
from tests.support.models import tiny
from tests.support.questions import question_of

COUNT, LAYERS = 40, 6


@pytest.fixture(scope="module")
def questions():
    return [question_of(id=str(number), domain="ab"[number % 2]) for number in range(COUNT)]


@pytest.fixture(scope="module")
def pairs():
    """Prompts of two tokens: what stands before the question differs between the two, and the question is one token."""
    tokens = np.random.default_rng(0).permutation(np.arange(3, 300))[: 3 * COUNT].reshape(3, COUNT).tolist()
    return [
        PromptPair(*(Prompt((before, asked), cut=False) for before in sides))
        for *sides, asked in zip(*tokens, strict=True)
    ]


def _parting_at(layer):
    """A model of which one layer alone does anything: it brings what stands before the question into its state."""
    model = tiny("llama", layers=LAYERS)
    with torch.no_grad():
        for index, one in enumerate(model.model.layers):
            one.mlp.down_proj.weight.zero_()
            one.self_attn.o_proj.weight.mul_(30.0 if index == layer else 0.0)
    return model


def test_states_part_at_the_planted_layer(questions, pairs):
    done = []
    found = fast_slow_similarity(_parting_at(3), questions, pairs, seed=0, progress=done.append)
    assert found.layers == LAYERS
    assert sum(done) == 2 * COUNT
    (whole,) = found.over_all
    assert [(curve.domain, curve.n) for curve in found.domains] == [("a", COUNT // 2), ("b", COUNT // 2)]
    for curve in (whole, *found.domains):
        assert curve.estimate[:4] == pytest.approx([1.0] * 4, abs=1e-6)  # x[0] .. x[3]: up to the layer's input
        assert max(curve.high[4:]) < 0.9
        assert all(low <= value <= high for low, value, high in zip(curve.low, curve.estimate, curve.high, strict=True))
        assert curve.declines == "seen"
        assert curve.late_less_early.high < 0
    assert whole.plain[-1] > whole.estimate[-1] + 0.1
    assert FastSlowSimilarity.model_validate_json(found.model_dump_json()) == found


def test_where_nothing_happens_nothing_is_claimed(questions, pairs):
    found = fast_slow_similarity(_parting_at(None), questions, pairs, seed=0).over_all[0]
    assert found.estimate == pytest.approx([1.0] * (LAYERS + 1), abs=1e-6)
    assert found.declines == "cannot tell here"


def test_the_intervals_hold_the_truth_and_the_claim_follows_the_depth():
    """Gaussian states with covariance r between the sides: linear CKA is r squared."""
    rng = np.random.default_rng(4)
    alike = np.array([0.5, 0.7, 0.95])
    held, draws = 0, 40
    for _ in range(draws):
        fast, noise = rng.normal(size=(2, 30, 3, 60))
        slow = alike[:, None] * fast + np.sqrt(1 - alike**2)[:, None] * noise
        found = compare_states(fast, slow, [str(i) for i in range(30)], seed=0)
        held += found["low"][2] <= 0.95**2 <= found["high"][2]
        assert found["declines"] == "the reverse"
    assert held >= 0.9 * draws
    assert compare_states(fast[:7], slow[:7], [str(i) for i in range(7)], seed=0)["declines"] == "cannot tell here"
    halves = compare_states(fast, slow, [str(i // 2) for i in range(30)], seed=0)
    assert halves["clusters"] == 15


def test_prompts_are_those_that_are_asked(tiny_llama, sample_questions):
    ask = {"data": sample_questions, "domains": "math", "limit": 2, "sets": ["mmlu"]}
    ask |= {"thinking": "fast,slow", "slow_tokens": 16}
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    asked = run(tiny_llama, show_progress=False, max_length=512, **ask)
    plans = [plan for plan in plan_tasks(Settings.of(**ask)) if plan.thinking == "fast"]
    questions = [item for plan in plans for item in plan.questions]
    made = pair_prompts(questions, tokenizer, chat=True, prompts=None, max_length=512)
    hashes = {(sample.id, sample.thinking): sample.prompt_hash for sample in asked.samples}
    for item, pair in zip(questions, made, strict=True):
        for mode, limit, stop in (("fast", 16, "\n"), ("slow", 16, "\nQuestion:")):
            prompt = getattr(pair, mode)
            text = tokenizer.decode(prompt.tokens)
            how = {"until": [stop], "do_sample": False, "max_gen_toks": limit}
            assert hashes[item.id, mode] == hash_prompt([(text, how)])
    whole = made[0].slow
    room = len(whole.tokens) - 40
    short = pair_prompts(questions, tokenizer, chat=True, prompts=None, max_length=room)[0].slow
    assert (whole.cut, short.cut) == (False, True)
    assert short.tokens == whole.tokens[-room:]


def test_a_state_that_is_no_number_is_told(questions, pairs):
    model = _parting_at(0)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(RegrowthError, match=r"x\[3\] is not finite on question 0; try --dtype float32"):
        fast_slow_similarity(model, questions, pairs, seed=0)
