"""Chats: what they ask, and how a tokenizer's chat template writes that down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from prune.common.errors import TextError, UsageError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASSISTANT = "assistant"
Messages = list[dict[str, Any]]
_SHOWN = 40  # characters of a chat that an error shows


def wants_chat(setting: str, tokenizer: Any, name: str) -> bool:
    """Whether prompts go through the tokenizer's chat template: as told, or by `auto` where it has one.

    Args:
        setting: `on`, `off` or `auto`.
        name: of the model, for the message.

    Raises:
        UsageError: `on`, and the tokenizer has none.
    """
    there = bool(getattr(tokenizer, "chat_template", None))
    if setting == "on" and not there:
        raise UsageError(f"--chat-template on: the tokenizer of {name} has no chat template; use auto or off")
    return there and setting != "off"


class Template:
    """The chat template of a tokenizer.

    Args:
        remedy: what to do where there is none, for the message.

    Raises:
        TextError: the tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, remedy: str) -> None:
        self.name = tokenizer.name_or_path or "the model"
        if not tokenizer.chat_template:
            raise TextError(f"the text holds chats, and the tokenizer of {self.name} has no chat template; {remedy}")
        self.tokenizer = tokenizer

    def ask(self, messages: Messages, *, thinking: bool = False) -> str:
        """The text by which the model is asked for the next answer, the generation prompt included.

        Args:
            thinking: whether a template that has such a switch lets the model think first.

        Raises:
            TextError: the template refuses the messages.
        """
        return self.text(messages, add_generation_prompt=True, enable_thinking=thinking)

    def text(self, messages: Messages, **how: Any) -> str:
        """The messages as the template writes them."""
        return str(self.apply(messages, tokenize=False, **how))

    def apply(self, messages: Messages, **how: Any) -> Any:
        """What `apply_chat_template` makes of the messages.

        Raises:
            TextError: the template refuses them.
        """
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(messages, **how)
        except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
            raise TextError(
                f"the chat template of {self.name} refuses {shown(messages)} ({first_line(error)})"
            ) from None


def questions(chat: str) -> list[str]:
    """What the user says in a chat, given as JSON."""
    return [message["content"] for message in json.loads(chat) if message["role"] == "user"]


def opening_question(chat: str) -> str:
    """What the user says first in a chat, given as JSON: by this it is known again, whatever the answer is."""
    return next(iter(questions(chat)), chat)


def first_question(chat: str) -> Messages:
    """The messages of a chat before its first answer."""
    messages: Messages = json.loads(chat)
    answers = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    return messages[: answers[0]] if answers else messages


def shown(messages: Messages) -> str:
    """A chat in words, for messages."""
    text = " ".join(next((m["content"] for m in messages if m["role"] == "user"), messages[0]["content"]).split())
    return f"the chat {text[:_SHOWN]!r}" + (" ..." if len(text) > _SHOWN else "")
