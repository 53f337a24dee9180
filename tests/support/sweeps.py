"""What a sweep scores, beside lm-eval's own HFLM on the same questions."""

import os

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.asking.tasks import plan_tasks
from eval.settings import Settings
from eval.sweeps.lookup import AnswerTask, Prompting, read

FEW = {"domains": "medical,math", "limit": 4, "sets": ["mmlu", "asdiv"], "show_progress": False}


def tasks(data, limit=4):
    asked = Settings.of(data=data, domains="medical,math", limit=limit, sets=["mmlu", "asdiv"])
    return [AnswerTask(plan) for plan in plan_tasks(asked)]


def by_hflm(folder, data, *, limit=4, chat=False, model=None):
    """lm-eval's samples of the same tasks, by its own HFLM on a checkpoint."""
    from lm_eval.models.huggingface import HFLM

    os.environ["TQDM_DISABLE"] = "1"
    model = model or AutoModelForCausalLM.from_pretrained(folder)
    lm = HFLM(pretrained=model.eval(), tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4, max_length=1024)
    return read(tasks(data, limit), lm, Prompting(chat))["samples"]


def agree(found, place, samples):
    """Whether a sweep's variant scored as lm-eval did, question by question."""
    for task in found.tasks:
        for question, entry in enumerate(samples[task.plan.name]):
            assert task.nll[place, question] == pytest.approx(entry["answer_nll_bits"], abs=1.4e-4)  # 1e-4 nats
            if task.correct is None:
                assert task.greedy[place, question] == entry["answer_greedy"]
            else:
                assert task.correct[place, question] == entry["acc_norm"]
                assert task.raw[place, question] == entry["acc"]
