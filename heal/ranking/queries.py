"""Domain questions as queries: prompt and answer, in the words in which `evaluate` asks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eval.questions.domains import question_files
from eval.questions.schema import Question, draw, read_questions
from heal.ranking.pool import reading
from heal.ranking.rows import Query
from heal.ranking.settings import RankSettings
from heal.text.packing import Row
from prune.common.errors import RegrowthError
from prune.text.chats import wants_chat
from prune.text.windows import bos_id, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUERY_TOKENS = 512  # of prompt and answer; a longer prompt loses its beginning
MATHEMATICS = ("math", "mathematics")  # domains whose worked solutions are the procedure that is asked for


@dataclass(frozen=True)
class Asked:
    """A question, and the query that it became.

    Attributes:
        worked: whether the query's answer is a worked solution with the answer behind it.
    """

    query: Query
    question: Question
    worked: bool

    @property
    def words(self) -> str:
        """The question and its answer alone, without what stands around them in the prompt."""
        solution = (self.question.rationale or "") if self.worked else ""
        return " ".join(filter(None, (self.question.question, solution, self.query.key)))


def draw_questions(settings: RankSettings) -> dict[str, list[Question]]:
    """The questions of each domain that the seed draws last.

    `evaluate` takes those that the same seed draws first: with its `--limit` both are apart where there are enough.

    Raises:
        UsageError: an unknown domain.
        RegrowthError: a missing or broken file, or one question alone.
    """
    assert settings.data is not None
    drawn = {}
    for domain, path in question_files(settings.data, settings.domains).items():
        order = draw(read_questions(path), limit=None, seed=settings.seed)
        drawn[domain] = order[::-1][: settings.questions]
        if len(drawn[domain]) < 2:
            raise RegrowthError(f"{path} holds one question: a standard error needs two")
    return drawn


def ask(drawn: dict[str, list[Question]], tokenizer: PreTrainedTokenizerBase, *, chat_template: str) -> list[Asked]:
    """Put questions into the words of the protocols: `choice` for those with choices, `generation-fast` for open ones.

    A mathematical question with a worked solution is asked as in slow thinking, and the solution is the answer's part:
    it is the procedure. All other answers are the right choice's text, or the number. lm-eval writes the prompts, with
    the chat template where it is on.

    Args:
        drawn: domain -> questions.
        chat_template: `on`, `off` or `auto`, see `RankSettings`.

    Raises:
        UsageError: `on`, and the tokenizer has no chat template.
    """
    chat = wants_chat(chat_template, tokenizer, tokenizer.name_or_path or "the model")
    return [
        asked
        for domain, questions in drawn.items()
        for group in _alike(questions)
        for asked in _ask(domain, group, tokenizer, chat)
    ]


def encode_query(tokenizer: PreTrainedTokenizerBase, query: Query) -> Row:
    """The query's tokens, of which the answer's bear loss; prompt and answer are split as lm-eval splits them."""
    prompt = query.prompt.rstrip()
    answer = query.prompt[len(prompt) :] + query.answer
    whole, bos = encode(tokenizer, prompt + answer), bos_id(tokenizer)
    before = whole[: len(encode(tokenizer, prompt))]
    if bos is not None and before[:1] != [bos]:
        before = [bos, *before]
    return reading(before, whole[len(encode(tokenizer, prompt)) :], QUERY_TOKENS)


def _alike(questions: Sequence[Question]) -> list[list[Question]]:
    """Groups that one protocol asks, in the order of their first question."""
    groups: dict[tuple[str, bool], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.protocol, _is_worked(question)), []).append(question)
    return list(groups.values())


def _is_worked(question: Question) -> bool:
    return question.rationale is not None and (question.choices is None or question.domain in MATHEMATICS)


def _ask(domain: str, questions: list[Question], tokenizer: PreTrainedTokenizerBase, chat: bool) -> list[Asked]:
    from eval.asking.chat import render_chat
    from eval.asking.harness import PlannedTask
    from eval.asking.tasks import TaskPlan

    protocol, worked = questions[0].protocol, _is_worked(questions[0])
    thinking = "slow" if worked else "fast" if protocol == "generation" else None
    task = PlannedTask(TaskPlan(domain, protocol, tuple(questions), thinking=thinking))
    task.set_fewshot_seed(seed=0)
    template = partial(render_chat, tokenizer) if chat else None
    task.build_all_requests(rank=0, world_size=1, apply_chat_template=chat, chat_template=template)
    by_id = {question.id: question for question in questions}
    asked = []
    for request in task.instances:
        question = by_id[request.doc["id"]]
        if thinking is None and request.idx != question.answer:  # a wrong choice
            continue
        answer = f" {request.doc['target']}" if thinking else request.args[1]
        if worked:
            answer = f" {question.rationale}\nAnswer:{answer}"
        query = Query(f"{domain}/{question.id}", domain, request.args[0], answer, question.right_answer)
        asked.append(Asked(query, question, worked))
    return asked
