"""The fast and the slow prompt of the same question, as tokens: the very prompts that `--thinking fast,slow` asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eval.asking.prompts import Prompts
from eval.asking.tasks import TaskPlan
from eval.questions.schema import Question
from prune.common.thinking import MODES


@dataclass(frozen=True)
class Prompt:
    """One prompt in tokens."""

    tokens: tuple[int, ...]
    cut: bool  # its start, to fit


@dataclass(frozen=True)
class PromptPair:
    """The two prompts of one question."""

    fast: Prompt
    slow: Prompt


def pair_prompts(
    questions: Sequence[Question],
    tokenizer: Any,
    *,
    chat: bool,
    prompts: Prompts | None,
    max_length: int,
) -> list[PromptPair]:
    """Both prompts of each question, in the questions' order, up to where the model begins to write.

    Args:
        chat: put them through the tokenizer's chat template, as `prune.text.chats.wants_chat` decides.
        prompts: the user's own words; the built-in ones if None. They must have words for each kind of question.
        max_length: of a longer prompt the start is cut.
    """
    texts = {mode: _texts(questions, mode, tokenizer, chat, prompts) for mode in MODES}
    sides = [[_prompt(text, tokenizer, max_length) for text in texts[mode]] for mode in MODES]
    return [PromptPair(fast, slow) for fast, slow in zip(*sides, strict=True)]


def _texts(questions: Sequence[Question], mode: str, tokenizer: Any, chat: bool, prompts: Prompts | None) -> list[str]:
    from eval.asking.chat import render_chat
    from eval.asking.harness import PlannedTask

    texts: dict[int, str] = {}
    for protocol in dict.fromkeys(item.protocol for item in questions):
        numbers = [number for number, item in enumerate(questions) if item.protocol == protocol]
        items = tuple(questions[number] for number in numbers)
        task = PlannedTask(TaskPlan(items[0].domain, protocol, items, thinking=mode, prompts=prompts))
        task.set_fewshot_seed(seed=0)  # lm-eval wants one, though the examples are fixed
        for number, doc in zip(numbers, task.eval_docs, strict=True):
            texts[number] = task.fewshot_context(
                doc,
                num_fewshot=task.config.num_fewshot,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
                chat_template=partial(render_chat, tokenizer) if chat else None,
                gen_prefix=task.doc_to_prefix(doc),
            )
    return [texts[number] for number in range(len(questions))]


def _prompt(text: str, tokenizer: Any, max_length: int) -> Prompt:
    bos = tokenizer.bos_token
    # as lm-eval does: a chat template writes its own
    ids = tokenizer(text, add_special_tokens=not (bos and text.startswith(bos)))["input_ids"]
    return Prompt(tuple(ids[-max_length:]), cut=len(ids) > max_length)
