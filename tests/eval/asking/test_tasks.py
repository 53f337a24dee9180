"""Tasks and their scores: against plain torch on the sample model, and what must never become a number."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.asking.harness import PlannedTask, Scorer
from eval.asking.tasks import plan_tasks, template
from eval.runs.run import run
from eval.runs.samples import hash_prompt
from eval.settings import Settings
from prune.common.errors import RegrowthError, UsageError
from prune.common.screen.terminal import Progress
from tests.support.models import changed
from tests.support.questions import plan_of
from tests.support.texts import write_jsonl

FEW = {"limit": 3, "sets": ["mmlu", "asdiv"], "chat_template": "off"}


@pytest.fixture(scope="module")
def answered(sample_model, sample_questions):
    """The sample model on three questions of each kind, through lm-eval."""
    return run(sample_model, data=sample_questions, domains="medical,math", show_progress=False, **FEW)


def _loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def loaded(sample_model):
    return _loaded(sample_model)


def _log_likelihood(loaded, prompt, continuation):
    """Sum of log p over the continuation's tokens, one sequence, no padding, no batch."""
    model, tokenizer = loaded
    start = len(tokenizer(prompt)["input_ids"])
    ids = torch.tensor([tokenizer(prompt + continuation)["input_ids"]])
    with torch.inference_mode():
        logprobs = model(ids).logits[0].log_softmax(-1)
    return sum(float(logprobs[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))


def _prompt(question):
    return f"Question: {question.question}\nAnswer:"


def test_choice_scores_equal_plain_torch(answered, loaded):
    plans = [plan for plan in answered.tasks if plan.protocol == "choice"]
    assert [plan.name for plan in plans] == ["regrowth_medical_choice", "regrowth_math_choice"]
    for plan in plans:
        right = right_raw = 0
        for question, sample in zip(plan.questions, answered.of(plan), strict=True):
            scores = [_log_likelihood(loaded, _prompt(question), f" {choice}") for choice in question.choices]
            assert sample.id == question.id
            assert sample.answer_nll_bits == pytest.approx(-scores[question.answer] / math.log(2), abs=1e-4, rel=1e-5)
            per_character = [s / len(c) for s, c in zip(scores, question.choices, strict=True)]
            assert sample.response == per_character.index(max(per_character))
            assert sample.correct == (sample.response == question.answer)
            assert sample.correct_raw == (scores.index(max(scores)) == question.answer)
            right += sample.correct
            right_raw += sample.correct_raw
        results = answered.harness["results"][plan.name]
        assert results["acc_norm,none"] == right / 3
        assert results["acc,none"] == right_raw / 3


def test_generation_equals_plain_greedy_decoding(answered, loaded):
    model, tokenizer = loaded
    (plan,) = [plan for plan in answered.tasks if plan.protocol == "generation"]
    head = template("generation")["doc_to_text"].split("{{question}}")[0]
    for question, sample in list(zip(plan.questions, answered.of(plan), strict=True))[:2]:
        prompt = f"{head}{question.question}\nAnswer:"
        nll = -_log_likelihood(loaded, prompt, f" {question.answer}") / math.log(2)
        assert sample.answer_nll_bits == pytest.approx(nll, abs=1e-4, rel=1e-5)
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            text = tokenizer.decode(model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :])
        assert sample.response == text.split("\n")[0]


def test_every_question_is_scored_once_and_all_models_get_the_same(answered, tiny_llama, sample_questions):
    other = run(tiny_llama, data=sample_questions, domains="medical,math", show_progress=False, **FEW)
    assert [(s.id, s.prompt_hash) for s in other.samples] == [(s.id, s.prompt_hash) for s in answered.samples]
    assert len({s.id for s in answered.samples}) == 9
    assert other.samples != answered.samples
    assert other.settings["max_length"] == 512


def test_braces_in_a_question_are_text_not_a_template():
    task = PlannedTask(plan_of(["q"]))
    assert task.doc_to_text(task.eval_docs[0]) == "Question: Which {{one}}?\nAnswer:"


@pytest.mark.parametrize("chat", [False, True])
def test_an_open_question_opens_its_answer_and_in_a_chat_the_turn(chat):
    task = PlannedTask(plan_of(["q"], choices=None, answer="9"))
    doc = task.eval_docs[0]
    turns = []

    def template(messages, add_generation_prompt=True):
        turns.extend(messages)
        return f"<{messages[-1]['content']}>{add_generation_prompt}"

    how = {"apply_chat_template": chat, "chat_template": template}
    prompt = task.fewshot_context(doc, 0, gen_prefix=task.doc_to_prefix(doc), **how)
    if chat:
        assert [turn["role"] for turn in turns] == ["user", "assistant"]
        assert turns[0]["content"].endswith("Problem: Which {{one}}?")
        assert prompt == "<Answer:>False"  # the turn is the assistant's, and stays open
    else:
        assert prompt.endswith("Problem: Which {{one}}?\nAnswer:")
        assert not turns
    asked = task.construct_requests(doc, prompt, **how)
    assert [one.arguments[1] for one in asked[1:]] == [" 9"]
    assert {one.arguments[0] for one in asked} == {prompt}


def test_unparseable_and_right_answers_are_told_apart():
    task = PlannedTask(plan_of(["q"], choices=None, answer="1,200 apples"))
    doc = task.eval_docs[0]
    scores = {text: task.process_results(doc, [text, (-2.0, False)]) for text in ("none at all", " $1200.", " 12")}
    assert [(s["exact_match"], s["unparseable"]) for s in scores.values()] == [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)]
    assert scores[" 12"]["answer_nll_bits"] == pytest.approx(2 / math.log(2))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_score_that_is_no_number_is_an_error(bad):
    choice, generation = PlannedTask(plan_of(["q"])), PlannedTask(plan_of(["q"], choices=None, answer="9"))
    with pytest.raises(RegrowthError, match="no finite log-likelihood"):
        choice.process_results(choice.eval_docs[0], [(bad, False), (-1.0, False)])
    with pytest.raises(RegrowthError, match="no finite log-likelihood"):
        generation.process_results(generation.eval_docs[0], ["9", (bad, False)])


def test_a_model_of_nans_is_an_error(tiny_llama, sample_questions, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "nan")
    with changed(folder) as model:
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RegrowthError, match="no finite log-likelihood"):
        run(folder, data=sample_questions, domains="medical", show_progress=False, **FEW)


def test_out_of_memory_halves_the_batch_and_says_so(tiny_llama):
    model, tokenizer = _loaded(tiny_llama)
    room = 2

    def full(module, arguments, options):
        if next(iter([*arguments, *options.values()])).shape[0] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    scorers = []
    for size in (2, 8):
        if size > room:
            model.register_forward_pre_hook(full, with_kwargs=True)
        scorers.append(Scorer(model, tokenizer, batch_size=size, max_length=128, bar=Progress()))
    requests = [(("q", "a"), tokenizer(f"question {i}")["input_ids"], tokenizer(" yes")["input_ids"]) for i in range(9)]
    small, large = (scorer._loglikelihood_tokens(requests) for scorer in scorers)
    assert small == large
    assert scorers[0].notes == []
    assert scorers[1].notes == [
        "out of memory at batch size 8: went on with 4",
        "out of memory at batch size 4: went on with 2",
    ]
    assert [scorer.facts["batch_size"] for scorer in scorers] == [2, 2]  # as it went on, not as it began
    room = 0
    with pytest.raises(RegrowthError, match="one question at a time"):
        scorers[1]._loglikelihood_tokens(requests)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
    ids=["cpu", "cuda", "python"],
)
def test_out_of_memory_while_trees_are_tried_halves_the_batch_too(tiny_llama, monkeypatch, error):
    """The choices of these questions share a context, so trees are tried; that probe is what does not fit."""
    model, tokenizer = _loaded(tiny_llama)
    contexts = [tokenizer(f"a question of many words, number {i}, is put here")["input_ids"] for i in range(3)]
    words = ("yes it is", "no it is not", "maybe it is", "never was it")
    choices = [tokenizer(f" {word}")["input_ids"] for word in words]
    requests = [(("q", "a"), context, choice) for context in contexts for choice in choices]
    scorer = Scorer(model, tokenizer, batch_size=8, max_length=128, bar=Progress())
    wanted = scorer._loglikelihood_tokens(requests)

    def full(*_args, **_options):
        raise error

    monkeypatch.setattr("eval.asking.walk.score", full)

    def wide(module, arguments, options):
        if next(iter([*arguments, *options.values()])).shape[0] > 2:
            raise error

    model.register_forward_pre_hook(wide, with_kwargs=True)
    found = scorer._loglikelihood_tokens(requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert scorer.notes == [f"out of memory at batch size {size}: went on with {size // 2}" for size in (8, 4)]
    monkeypatch.setattr("eval.asking.harness.choose_way", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        scorer._loglikelihood_tokens(requests)


def test_choices_share_one_reading_and_score_as_in_hflm(tiny_llama, sample_questions):
    model, tokenizer = _loaded(tiny_llama)
    plans = plan_tasks(Settings.of(data=sample_questions, domains="medical", limit=12, seed=0, sets=["mmlu"]))
    prompts = [f"Question: {question.question}\nAnswer:" for question in plans[0].questions]
    requests = [
        ((prompt, choice), tokenizer(prompt)["input_ids"], tokenizer(" " + choice)["input_ids"])
        for prompt, question in zip(prompts, plans[0].questions, strict=True)
        for choice in question.choices
    ]
    kept = []
    ours = Scorer(model, tokenizer, batch_size=4, max_length=512, bar=Progress())
    ours.set_cache_hook(SimpleNamespace(add_partial=lambda kind, pair, answer: kept.append((pair, answer))))
    found = ours._loglikelihood_tokens(requests)
    plain = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=512)
    wanted = plain._loglikelihood_tokens(requests, disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert sorted(kept) == sorted((pair, answer) for (pair, *_), answer in zip(requests, found, strict=True))
    assert ours.tokens < 0.6 * sum(len(context) + len(answer) - 1 for _, context, answer in requests)


def test_prompts_that_lose_their_start_are_counted(tiny_llama, sample_questions):
    ask = {"domains": "math", "limit": 2, "sets": ["asdiv"], "max_length": 64, "show_progress": False}
    assert run(tiny_llama, data=sample_questions, **ask).truncated == 4


def test_the_plan_draws_per_protocol_and_by_set(sample_questions):
    asked = Settings.of(data=sample_questions, domains="math,medical", limit=7, seed=5, sets=["mmlu", "asdiv"])
    plans = plan_tasks(asked)
    wanted = [("math", "choice", 7), ("math", "generation", 7), ("medical", "choice", 7)]
    assert [(p.domain, p.protocol, len(p.questions)) for p in plans] == wanted
    assert {q.source for q in plans[2].questions} == {"mmlu"}
    assert plans[0].chance == 0.25
    assert plans[1].requests == 14
    assert plan_tasks(asked) == plans
    with pytest.raises(UsageError, match="leaves no question in domain math; its sets: asdiv, mmlu"):
        plan_tasks(Settings.of(data=sample_questions, domains="math", sets=["medqa"]))
    with pytest.raises(UsageError, match="too few"):
        Settings.of(data=sample_questions, domains="math", limit=1)


def test_what_would_fail_after_all_is_asked_is_refused_before(tmp_path):
    def fill(*questions):
        rows = [
            {"id": str(i), "domain": "own", "subject": "s", "source": "mine", "licence": "none", **question}
            for i, question in enumerate(questions)
        ]
        write_jsonl(tmp_path / "own.jsonl", rows)

    passage = "A passage that is long enough to be one, for it has more than eighty characters in it.\n"
    two = {"choices": ["yes", "no"], "answer": 0}
    many = {"choices": [str(n) for n in range(30)], "answer": 29}
    fill({"question": "one?", **two})
    with pytest.raises(RegrowthError, match=r"own\.jsonl: one choice question .* an interval needs two"):
        plan_tasks(Settings.of(data=tmp_path, domains="own"))
    fill({"question": passage + "one?", **two}, {"question": passage + "two?", **two})
    with pytest.raises(RegrowthError, match="several on one passage"):
        plan_tasks(Settings.of(data=tmp_path, domains="own"))
    fill({"question": "one?", **two}, {"question": "many?", **many})
    assert len(plan_tasks(Settings.of(data=tmp_path, domains="own"))) == 1
    with pytest.raises(RegrowthError, match=r"own\.jsonl: question 1 has 30 choices, .* 26 at most"):
        plan_tasks(Settings.of(data=tmp_path, domains="own", thinking=("fast",)))


def test_the_prompt_hash_covers_all_that_is_asked():
    asked = [("prompt", " a"), ("prompt", " b")]
    assert hash_prompt(asked) == hash_prompt(list(asked))
    assert len({hash_prompt(asked), hash_prompt([("prompt", " a"), ("prompt", " c")]), hash_prompt([("x", " a")])}) == 3


def test_prose_loss_equals_plain_torch(loaded, sample_model, sample_questions, tmp_path):
    text = "The heart pumps blood through the vessels of the body, and the lungs give it oxygen – all day long."
    source = tmp_path / "prose.jsonl"
    source.write_text(json.dumps({"body": text}))
    ask = {"data": sample_questions, "domains": "math", "limit": 2, "sets": ["mmlu"], "show_progress": False}
    found = run(sample_model, text=str(source), field="body", **ask)
    model, tokenizer = loaded
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        loss = float(model(ids, labels=ids).loss)
    assert found.prose["held-out"].nats_per_token == pytest.approx(loss, abs=1e-4)
    bits = loss * (ids.shape[1] - 1) / math.log(2)
    assert found.prose["held-out"].bits_per_byte == pytest.approx(bits / len(text.encode()), rel=1e-4)
