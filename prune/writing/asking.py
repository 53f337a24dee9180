"""Which prompts a model is given: the rows of a SOURCE, asked fast or slow, round after round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from prune.common.errors import TextError, UsageError
from prune.common.thinking import FAST, SLOW
from prune.text.chats import Messages, Template, first_question, wants_chat
from prune.text.documents import MESSAGES, Document, Documents
from prune.writing.prompts import Prompt, asked_prompt, in_turns, opening_prompt, plain_prompt, shuffled
from prune.writing.settings import WriteSettings
from prune.writing.words import LETTERS, plain_words, question_words, slow_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION, TEXT, CHOICES = "question", "text", "choices"
FIELDS = ("prompt", QUESTION, MESSAGES, TEXT)  # the first that a row has is its prompt
DOCUMENT = "document"  # neither fast nor slow
_THINKS = ("enable_thinking", "<think>")  # a template with one of these has a way to think of its own


@dataclass
class Counts:
    """What became of the prompts: those passed over in the first round, and the rounds that were begun."""

    too_long: int = 0
    empty: int = 0
    rounds: int = 0


class Asker:
    """Rows as prompts of one model.

    Raises:
        UsageError: `chat_template` is on, and the tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: WriteSettings) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._template: Template | None = None
        self._own_way = False
        if wants_chat(settings.chat_template, tokenizer, tokenizer.name_or_path or "the model"):
            self._template = Template(tokenizer, remedy="")
            self._own_way = any(mark in tokenizer.get_chat_template() for mark in _THINKS)

    def prompt(self, document: Document, *, slow: bool) -> Prompt | None:
        """What a row asks; None where it asks nothing. A document that the model goes on from is neither fast nor slow.

        Raises:
            TextError: a chat, and no template.
        """
        if document.field == TEXT:
            prompt = opening_prompt(self._tokenizer, document.text, self._settings.prompt_tokens)
            return None if prompt is None else replace(prompt, kind=DOCUMENT)
        kind = SLOW if slow else FAST
        if document.chat:
            return self._chat(document, slow=slow)
        choices = document.also.get(CHOICES)
        choices = choices if document.field == QUESTION and choices and len(choices) <= len(LETTERS) else None
        words = question_words(document.text, choices)
        if slow:
            words = slow_words(words, self._instruction, choices)
        if self._template is not None:
            return replace(self._asked([{"role": "user", "content": words}], slow=slow), kind=kind)
        words = plain_words(words, question=document.field == QUESTION, slow=slow)
        return replace(plain_prompt(self._tokenizer, words), kind=kind)

    @property
    def templated(self) -> bool:
        """Whether prompts are put in the tokenizer's chat template."""
        return self._template is not None

    @property
    def _instruction(self) -> str | None:
        own = self._own_way and self._settings.instruction is None
        return "" if own else self._settings.instruction

    def _chat(self, document: Document, *, slow: bool) -> Prompt | None:
        if self._template is None:
            off = self._settings.chat_template == "off"
            raise TextError(
                f"{document.where} is a chat, and "
                + ("--chat-template is off; leave it out" if off else "the tokenizer has no chat template")
                + ", or name a field of text with --field"
            )
        messages = first_question(document.text)
        if not messages:
            return None
        if slow:
            last = messages[-1]
            messages = [*messages[:-1], {**last, "content": slow_words(last["content"], self._instruction, None)}]
        return replace(self._asked(messages, slow=slow), kind=SLOW if slow else FAST)

    def _asked(self, messages: Messages, *, slow: bool) -> Prompt:
        assert self._template is not None
        prompt = asked_prompt(self._tokenizer, self._template, messages, thinking=slow)
        return replace(prompt, messages=messages)


def read_prompts(
    asker: Asker, sources: Sequence[str], settings: WriteSettings, *, room: int | None, again: bool, counts: Counts
) -> Iterator[Prompt]:
    """The prompts of all sources in turns, in an order given by the seed; then again in another order, and so on.

    Of each source every so many are asked slow, as the share says.

    Args:
        room: tokens of a prompt at most; longer ones are passed over. None where there is no bound.
        again: whether there is a second round; without one the prompts end.
        counts: kept up to date.

    Raises:
        TextError: a source cannot be read, or no prompt of it can be asked.
    """
    for number in count():
        if number and not again:
            return
        streams = [
            _asked_of(asker, source, settings, [settings.seed, number, index], room, counts if not number else Counts())
            for index, source in enumerate(sources)
        ]
        counts.rounds += 1
        asked = False
        for prompt in in_turns(streams):
            asked = True
            yield prompt
        if not asked:
            most = "" if room is None else f" in the {room} tokens there are beside --answer-tokens"
            raise TextError(
                f"{' and '.join(sources)}: no prompt that can be asked{most} ({counts.too_long} too long, "
                f"{counts.empty} that ask nothing or have under 8 tokens); give others with --prompts, or raise "
                "--max-length"
            )


def _asked_of(
    asker: Asker, source: str, settings: WriteSettings, seed: list[int], room: int | None, counts: Counts
) -> Iterator[Prompt]:
    fields = FIELDS if settings.field is None else settings.field
    documents = Documents(source, fields, chats=True, lists=[CHOICES], lines=True)
    share = settings.slow_share if len(settings.thinking) > 1 else float(SLOW in settings.thinking)
    asked = 0
    for document in shuffled(documents, seed):
        slow = int((asked + 1) * share + 1e-9) > int(asked * share + 1e-9)
        prompt = asker.prompt(document, slow=slow)
        if prompt is None:
            counts.empty += 1
        elif room is not None and len(prompt.ids) > room:
            counts.too_long += 1
        else:
            asked += 1
            yield replace(prompt, source=document.place.rpartition(":")[0])


def check_room(limit: int | None, settings: WriteSettings) -> int | None:
    """Tokens that a prompt may have; None where there is no bound.

    Args:
        limit: tokens that the model reads.

    Raises:
        UsageError: answers leave none.
    """
    if limit is None:
        return None
    if settings.answer_tokens >= limit:
        raise UsageError(
            f"--answer-tokens {settings.answer_tokens} leaves no room for a prompt in the {limit} tokens that the "
            "model reads"
        )
    return limit - settings.answer_tokens
