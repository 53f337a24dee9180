"""The chat template: where it knows no system role, the chat is asked without it."""

import pytest
from jinja2.exceptions import TemplateError

from eval.asking.chat import render_chat
from prune.checkpoint.source import locate
from prune.models.loading import load_tokenizer

REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
CHAT = [{"role": "system", "content": "be short"}, {"role": "user", "content": "why?"}]


def test_a_template_without_a_system_role_is_asked_without_it(tiny_llama):
    tokenizer = load_tokenizer(locate(tiny_llama))
    tokenizer.chat_template = TURNS
    assert render_chat(tokenizer, CHAT) == "<system>be short<user>why?"
    tokenizer.chat_template = REFUSING + TURNS
    assert render_chat(tokenizer, CHAT) == "<user>why?"
    tokenizer.chat_template = "{{ raise_exception('nothing at all') }}"
    with pytest.raises(TemplateError, match="nothing at all"):
        render_chat(tokenizer, CHAT)
