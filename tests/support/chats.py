"""Chats for tests, and the tokens of an answer found by reading the tokens themselves."""

import random

from transformers import PreTrainedTokenizerBase

_THINGS = ["a river", "the moon", "iron", "a cut", "bread", "a layer", "the sea", "a token"]

HEAD = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TAIL = "{% endfor %}" + PROMPT
# The same chat, whichever way answers are marked: with the white space after a turn inside, and with its end outside.
WIDE = HEAD + (
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>\n' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}" + TAIL
)
NARROW = HEAD + (
    "{% if message['role'] == 'assistant' %}{%- generation -%}{{ message['content'] }}{%- endgeneration -%}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '<|im_end|>\n' }}" + TAIL
)
PLAIN = HEAD + "{{ message['content'] + '<|im_end|>\n' }}" + TAIL
# What a thinking model has: an answer loses its thoughts once more follows.
THINKING = HEAD + (
    "{% if message['role'] == 'assistant' and not loop.last %}{{ message['content'].split('</think>')[-1] }}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '<|im_end|>\n' }}" + TAIL
)
STRICT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ message['content'] + '<|im_end|>' }}" + TAIL
)


def chat(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    """Messages of user and assistant in turns."""
    roles = ("user", "assistant")
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


def chats(count: int, seed: int = 0) -> list[dict[str, list[dict[str, str]]]]:
    """Rows with `messages`: one or two questions each, answers of unequal length."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        contents = []
        for _ in range(rng.randint(1, 2)):
            contents.append(f"Question {number}: what is {rng.choice(_THINGS)}?")
            contents.append("It is " + " and ".join(rng.choices(_THINGS, k=rng.randint(1, 6))) + ".")
        rows.append({"messages": chat(*contents)})
    return rows


def answers(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[bool]:
    """Of tokens in the sample model's template: whether each is the assistant's, up to and with the end of its turn."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    opening = [start, *tokenizer("assistant\n", add_special_tokens=False)["input_ids"]]
    found, inside = [], False
    for index, token in enumerate(ids):
        if token == start:
            inside = False
        found.append(inside)
        if token == end:
            inside = False
        if ids[max(0, index + 1 - len(opening)) : index + 1] == opening:
            inside = True
    return found
