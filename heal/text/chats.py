"""Chats as tokens: what a tokenizer's chat template makes of messages, and which tokens the assistant writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prune.common.errors import TextError
from prune.text.chats import ASSISTANT, Messages, Template, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prune.text.documents import Document

LOSS_ON = ("answers", "all")
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # a template that marks itself what the assistant writes


@dataclass(frozen=True)
class ChatTokens:
    """A chat of T tokens: `ids`, and of each whether it bears loss (`bears`). No BOS or EOS but the template's own."""

    ids: list[int]
    bears: list[bool]


class ChatTemplate(Template):
    """The chat template of a tokenizer, as chats are trained on.

    Args:
        loss_on: "answers": the loss is on what the assistant writes, with the token that ends its turn; "all": on all.

    Raises:
        TextError: the tokenizer has no template, or cannot tell the answers.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, loss_on: str = "answers") -> None:
        super().__init__(
            tokenizer, remedy="heal on prose, or put the chat_template.jinja of its family beside the tokenizer"
        )
        if loss_on == "answers" and not tokenizer.is_fast:
            raise TextError(
                f"the tokenizer of {self.name} does not tell where in a text its tokens stand, so the answers of "
                "chats cannot be told; give --loss-on all"
            )
        self._loss_on = loss_on
        self._special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special |= set(tokenizer.all_special_ids)

    def render(self, chat: str) -> ChatTokens:
        """The tokens of a chat, given as JSON (`prune.text.documents`).

        The tokens that the assistant writes are those which a template marks by `{% generation %}`. Without marks, an
        answer is what stands between the rendered messages before it, with the generation prompt, and those up to it;
        both must be a prefix of the whole chat. A token that holds characters of an answer counts as the answer's.
        White space that a template puts after the token that ends a turn is not what the assistant writes.

        Raises:
            TextError: the template refuses the chat, or does not tell the answers.
        """
        messages: Messages = json.loads(chat)
        whole = self.text(messages)
        found = self.tokenizer(
            whole, add_special_tokens=False, return_offsets_mapping=self._loss_on == "answers", verbose=False
        )
        ids = list(found["input_ids"])
        if self._loss_on == "all":
            return ChatTokens(ids, [True] * len(ids))
        if _MARKED.search(self.tokenizer.get_chat_template()):
            marked = self.apply(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            ids, bears = list(marked["input_ids"]), list(map(bool, marked["assistant_masks"]))
        else:
            bears = [False] * len(ids)
            for start, stop in self._answers(messages, whole):
                for index in _overlapping(found["offset_mapping"], start, stop):
                    bears[index] = True
        for run in list(_runs(bears)):
            self._end(ids, bears, run)
        if not any(bears):
            raise TextError(f"the chat template of {self.name} shows no answer of {shown(messages)}")
        return ChatTokens(ids, bears)

    def _answers(self, messages: Messages, whole: str) -> Iterator[tuple[int, int]]:
        """Where the answers stand in the whole chat: their first character, and the one after their last."""
        for index, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            if not index:
                raise TextError(f"{shown(messages)} begins with an answer to nothing; remove it, or give --loss-on all")
            before, after = self.ask(messages[:index]), self.text(messages[: index + 1])
            where = f"the chat template of {self.name} writes message {index + 1} of {shown(messages)}"
            if not whole.startswith(after):
                raise TextError(
                    f"{where} in another way once more follows (templates of thinking models take thoughts out of "
                    "earlier turns): give chats of one answer each, or --loss-on all"
                )
            if not after.startswith(before):
                raise TextError(
                    f"{where} without the words by which it asks for an answer (thinking templates may open a thought "
                    "there): mark answers in the template by {% generation %}, or give --loss-on all"
                )
            yield len(before), len(after)

    def _end(self, ids: list[int], bears: list[bool], run: tuple[int, int]) -> None:
        """End an answer, a run of tokens that bear loss, with the token that ends its turn."""
        start, stop = run
        last = next((index for index in range(stop - 1, start - 1, -1) if ids[index] in self._special), None)
        if last is not None and not self.tokenizer.decode(ids[last + 1 : stop]).strip():
            bears[last + 1 : stop] = [False] * (stop - last - 1)
        elif last is None and stop < len(ids) and ids[stop] == self.tokenizer.eos_token_id:
            bears[stop] = True


def check_answer(document: Document, loss_on: str) -> None:
    """Raise TextError for a chat in which the assistant says nothing, where the loss is on answers."""
    if loss_on == "answers" and not any(
        message["role"] == ASSISTANT and message["content"].strip() for message in json.loads(document.text)
    ):
        raise TextError(
            f"{document.where}: a chat without an answer (`role` {ASSISTANT!r}) has nothing to learn; remove it, or "
            "give --loss-on all"
        )


def _overlapping(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> range:
    """The tokens, by their spans of characters, that hold characters from `start` to before `stop`."""
    inside = [index for index, (begin, end) in enumerate(offsets) if end > start and begin < stop]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def _runs(bears: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Each run of tokens that bear loss: its first, and the one after its last."""
    start = None
    for index, borne in enumerate([*bears, False]):
        if borne and start is None:
            start = index
        elif not borne and start is not None:
            yield start, index
            start = None
