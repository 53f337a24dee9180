"""Text for healing that the full model writes itself: responses to prompts, as in Self-Data Distillation.

A model fine-tuned on what it would have said loses less of what it can do than one tuned on other people's text
(arXiv 2410.09982, where it is the remedy for generative tasks after a cut). What a chat asks is stored as a chat.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from heal.text.chats import ChatTemplate
from heal.text.sources import HeldOut, TextSource, trainable
from prune.common.errors import TextError
from prune.text.chats import ASSISTANT, Template, first_question
from prune.text.documents import Documents
from prune.text.windows import SHORTEST, encode
from prune.writing.prompts import Prompt, asked_prompt, in_turns, opening_prompt, plain_prompt, shuffled
from prune.writing.rows import WrittenRow, answer_words, write_rows
from prune.writing.writers import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEW = "give more with --prompts, raise --response-tokens, or ask for fewer --tokens"


def read_prompts(
    tokenizer: PreTrainedTokenizerBase,
    text: TextSource,
    prompts: str | None,
    held_out: HeldOut,
    *,
    seed: int,
    longest: int = 1 << 20,
) -> Iterator[Prompt]:
    """What the full model is to answer, in an order given by `seed`, through a buffer that holds 10,000 of them.

    Args:
        text: without `prompts`, its documents' openings, or what its chats ask; of several sources in turns.
        prompts: a SOURCE whose rows have a field `prompt`, or are chats.
        held_out: what is measured, and so never a prompt.
        longest: tokens of a row: no chat that is written becomes longer.

    Raises:
        TextError: a source cannot be read, some of `text` are chats and others prose, or the template does not tell
            the answers of chats.
    """
    if prompts is not None:
        reader = Documents(prompts, "prompt", chats=True)
        asked = _begun(shuffled((d.text for d in reader if not held_out.measures(d)), seed))
        if reader.chats:
            return chat_prompts(tokenizer, asked, longest, loss_on=text.loss_on)
        return asked_prompts(tokenizer, asked)
    wanted = trainable(text, held_out)
    readers = [Documents(source, text.field, chats=True) for source in text.sources]

    def documents(reader: Documents) -> Iterator[str]:
        return (d.text for d in reader if wanted(d))

    streams = [_begun(shuffled(documents(r), [seed, i] if i else seed)) for i, r in enumerate(readers)]
    if len({reader.chats for reader in readers}) > 1:
        raise TextError(
            "--teacher-data self: of --text, some are chats and others prose; name what it answers with --prompts"
        )
    found = in_turns(streams)
    if readers[0].chats:
        return chat_prompts(tokenizer, found, longest, loss_on=text.loss_on)
    openings = (opening_prompt(tokenizer, document) for document in found)
    return (prompt for prompt in openings if prompt is not None)


def asked_prompts(tokenizer: PreTrainedTokenizerBase, questions: Iterator[str]) -> Iterator[Prompt]:
    """Each question as a user's message in the tokenizer's chat template, or as it stands where there is none."""
    template = Template(tokenizer, remedy="") if tokenizer.chat_template else None
    for question in questions:
        if template is None:
            yield plain_prompt(tokenizer, question)
        else:
            yield asked_prompt(tokenizer, template, [{"role": "user", "content": question}])


def chat_prompts(
    tokenizer: PreTrainedTokenizerBase, chats: Iterator[str], longest: int, *, loss_on: str
) -> Iterator[Prompt]:
    """What each chat, given as JSON, asks before its first answer, in the tokenizer's chat template.

    A chat that asks nothing, or whose question leaves no room for an answer in `longest` tokens, is passed over.

    Args:
        loss_on: how the chats will be trained on; see `ChatTemplate`.

    Raises:
        TextError: there is no template, it refuses a chat, or it does not tell the answers.
    """
    template, tried = ChatTemplate(tokenizer, loss_on=loss_on), False
    for chat in chats:
        if messages := first_question(chat):
            if not tried:  # a template that will not do is found before the model writes for hours
                template.render(json.dumps([*messages, {"role": ASSISTANT, "content": "Yes."}]))
                tried = True
            text = template.ask(messages)
            ids = encode(tokenizer, text)
            if len(ids) <= longest - SHORTEST:
                yield Prompt(tuple(ids), text, messages, longest)


def write_responses(
    writer: Writer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Iterator[Prompt],
    path: Path,
    *,
    tokens: int,
    response_tokens: int,
    seed: int,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Let the full model answer prompts until there are `tokens` tokens, and write them to `path`.

    They grow in a file beside it, `partial(path)`, which becomes `path` when all are there; see `write_rows`. Of chats,
    those are left out that the model does not end, or that grow too long: what they would teach is to stop in the
    middle of a sentence.

    Args:
        response_tokens: at most so many a response; sampled at temperature 1 from the likeliest 95 %.

    Raises:
        TextError: see `write_rows`.
    """
    at_once = _rows_of(path, writer.at_once)

    def make(prompt: Prompt, ids: list[int], finished: bool, batch: int) -> WrittenRow | None:
        return _response(tokenizer, prompt, ids, finished, batch)

    write_rows(
        writer,
        prompts,
        partial(path),
        make,
        at_once=at_once,
        tokens=tokens,
        answer_tokens=response_tokens,
        seed=seed,
        few=_FEW,
        advance=advance,
    )
    partial(path).replace(path)
    _rows_file(path).unlink()


def partial(path: Path) -> Path:
    """Where responses stand until all are written."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _rows_file(path: Path) -> Path:
    return path.with_suffix(".rows")


def _rows_of(path: Path, wanted: int) -> int:
    """Prompts a batch: of a run that is gone on with its own, whatever is free now; else `wanted`, written down."""
    kept = _rows_file(path)
    if not (kept.exists() and partial(path).exists()):
        kept.write_text(f"{wanted}\n", encoding="utf-8")
    return int(kept.read_text(encoding="utf-8"))


def _response(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int], finished: bool, batch: int
) -> WrittenRow | None:
    """What the model wrote, or None where there is nothing to learn from it."""
    words = answer_words(tokenizer, ids)
    facts = (prompt.text, words, len(ids) - finished, finished, len(prompt.ids), batch)
    if not words.strip():
        return None
    if prompt.messages is None:
        return WrittenRow(prompt.text + words, *facts)
    if not finished or len(prompt.ids) + len(ids) >= prompt.longest:
        return None
    return WrittenRow(None, *facts, [*prompt.messages, {"role": ASSISTANT, "content": words.strip()}])


def tally(path: Path) -> dict[str, int]:
    """What a responses.jsonl holds: how many responses, their tokens, and how many the model finished itself."""
    with path.open(encoding="utf-8") as file:
        responses = [json.loads(line) for line in file]
    return {
        "responses": len(responses),
        "tokens": sum(response["tokens"] for response in responses),
        "finished": sum(response["finished"] for response in responses),
    }


def _begun(texts: Iterator[str]) -> Iterator[str]:
    """The same, the first one read, so that what kind they are is known."""
    first = next(texts, None)
    return chain([] if first is None else [first], texts)
