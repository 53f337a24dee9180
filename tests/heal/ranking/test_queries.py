"""Domain questions as queries, in the words of `evaluate`."""

import json

import pytest

from eval.asking.tasks import TaskPlan
from eval.questions.schema import draw, read_questions
from eval.sweeps.lookup import AnswerTask, Prompting, requests_of
from heal.ranking.queries import ask, draw_questions, encode_query
from heal.ranking.rows import Query
from heal.ranking.settings import RankSettings
from heal.text.packing import IGNORED
from prune.checkpoint.source import locate
from prune.common.errors import RegrowthError, UsageError
from prune.models.loading import load_tokenizer
from tests.support.questions import question_of


class Asker:
    """What lm-eval asks of a model to write a prompt."""

    tokenizer_name = ""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def apply_chat_template(self, history, add_generation_prompt=True):
        how = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return self._tokenizer.apply_chat_template(history, tokenize=False, **how)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return load_tokenizer(locate(tiny_llama))


def answer_of(tokenizer, asked):
    row = encode_query(tokenizer, asked.query)
    return tokenizer.decode(row.tokens[row.labels != IGNORED])


@pytest.mark.parametrize("chat", ["on", "off"])
def test_choices_are_asked_in_the_very_words_of_evaluate(tokenizer, sample_questions, chat):
    questions = draw(read_questions(sample_questions / "medical.jsonl"), limit=5, seed=3)
    plan = TaskPlan("medical", "choice", tuple(questions))
    requests = requests_of(AnswerTask(plan), Asker(tokenizer), Prompting(chat == "on"))
    wanted = {request.args for request in requests if request.idx == request.doc["answer"]}
    asked = ask({"medical": questions}, tokenizer, chat_template=chat)
    assert {(one.query.prompt, one.query.answer) for one in asked} == wanted
    assert [one.question for one in asked] == questions
    assert all(one.query.key in one.query.answer and not one.worked for one in asked)


def test_an_open_question_is_answered_at_once_and_a_worked_one_by_its_solution(tokenizer):
    fast = question_of(id="f", domain="math", question="What is 2 + 3?", choices=None, answer="5")
    slow = question_of(id="s", domain="math", question="2 + 4?", choices=None, answer="6", rationale="2 + 4 = 6.")
    first, second = ask({"math": [fast, slow]}, tokenizer, chat_template="off")
    assert first.query.prompt.endswith("Question: What is 2 + 3?\nGive the number at once, without reasoning.\nAnswer:")
    assert (first.query.answer, first.query.key, first.worked) == (" 5", "5", False)
    assert second.query.prompt.endswith("Reasoning:")
    assert (second.query.answer, second.query.key, second.worked) == (" 2 + 4 = 6.\nAnswer: 6", "6", True)
    assert answer_of(tokenizer, second) == second.query.answer
    assert second.words == "2 + 4? 2 + 4 = 6. 6"


def test_an_explanation_of_a_fact_is_no_procedure(tokenizer):
    explained = question_of(domain="medical", rationale="It is well known.")
    (asked,) = ask({"medical": [explained]}, tokenizer, chat_template="off")
    assert (asked.query.answer, asked.worked) == (" right", False)
    assert answer_of(tokenizer, asked) == " right"


def test_the_answer_alone_bears_loss_and_a_long_prompt_loses_its_beginning(tokenizer):
    row = encode_query(tokenizer, Query("q", "d", "word " * 2000 + "End:", " right here"))
    assert len(row.tokens) == 512
    assert tokenizer.decode(row.tokens[row.labels != IGNORED]) == " right here"
    assert tokenizer.decode(row.tokens).endswith("word End: right here")


def test_questions_are_drawn_by_the_seed_and_are_not_those_of_evaluate(sample_questions):
    how = {"text": ("x",), "data": sample_questions, "domains": ("medical", "math"), "questions": 20}
    drawn = draw_questions(RankSettings(**how))
    assert drawn == draw_questions(RankSettings(**how))
    assert [len(questions) for questions in drawn.values()] == [20, 20]
    same = draw(read_questions(sample_questions / "medical.jsonl"), limit=20, seed=0)
    assert len(set(same) & set(drawn["medical"])) < 5
    assert drawn["medical"] != draw_questions(RankSettings(**how, seed=1))["medical"]


def test_what_cannot_be_asked_is_refused_in_one_line(tokenizer, sample_questions, tmp_path):
    with pytest.raises(UsageError, match="no domain is called 'medicine'"):
        draw_questions(RankSettings(text=("x",), data=sample_questions, domains=("medicine",)))
    (tmp_path / "own.jsonl").write_text(json.dumps(question_of(domain="own").as_row()) + "\n")
    with pytest.raises(RegrowthError, match="holds one question"):
        draw_questions(RankSettings(text=("x",), data=tmp_path, domains=("own",)))
    with pytest.raises(UsageError, match="has no chat template; use auto or off"):
        bare = load_tokenizer(locate(tokenizer.name_or_path))
        bare.chat_template = None
        ask({"d": [question_of()]}, bare, chat_template="on")
