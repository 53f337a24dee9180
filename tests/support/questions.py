"""Questions, tasks and answers made by hand."""

from eval.asking.tasks import TaskPlan
from eval.questions.schema import parse_question
from eval.runs.samples import Sample

ROW = {
    "id": "q",
    "domain": "d",
    "subject": "s",
    "question": "Which {{one}}?",
    "choices": ["left", "right"],
    "answer": 1,
    "source": "own",
    "licence": "MIT",
}


def question_of(**changes):
    return parse_question({**ROW, **changes})


def plan_of(ids, mode=None, *, slow_tokens=64, **changes):
    """The task that asks one question under several ids."""
    questions = tuple(question_of(id=name, **changes) for name in ids)
    return TaskPlan(questions[0].domain, questions[0].protocol, questions, mode, slow_tokens)


def sample_of(name, correct=True, **changes):
    """A model's answer to one question."""
    fields = {"domain": "d", "protocol": "choice", "subject": "s", "source": "own", "answer_nll_bits": 4.0}
    fields |= {"correct_raw": correct, "parsed": True, "response": 0, "prompt_hash": "h"}
    return Sample(id=name, correct=correct, **fields | changes)
