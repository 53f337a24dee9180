"""The chat template as lm-eval asks for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from jinja2.exceptions import TemplateError


def render_chat(tokenizer: Any, history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """The prompt of a chat, by the tokenizer's template; where it ends with the assistant's words, left open."""
    render = partial(
        tokenizer.apply_chat_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    try:
        return str(render(history))
    except TemplateError:  # of templates that know no system role; so does lm-eval
        return str(render([message for message in history if message["role"] != "system"]))
