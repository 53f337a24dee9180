"""Text for healing that the full model writes itself: responses to prompts, as in Self-Data Distillation.

A model fine-tuned on what it would have said loses less of what it can do than one tuned on other people's text
(arXiv 2410.09982, where it is the remedy for generative tasks after a cut). What a chat asks is stored as a chat.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heal.settings import longest_row
from heal.text.chats import ASSISTANT, ChatTemplate, Messages, first_question
from heal.text.sources import HeldOut, TextSource, trainable
from prune.common.errors import TextError
from prune.common.out_of_memory import is_out_of_memory
from prune.models.fitting import rows_at_once
from prune.models.generation import VllmWriter, end_tokens, write_answers
from prune.text.documents import Documents
from prune.text.windows import SHORTEST, bos_id, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prune.checkpoint.source import Source

OPENING = 32  # tokens of a document that the model goes on from, where no prompts are named
_AT_ONCE = {"hf": 16, "vllm": 256}  # prompts a batch; on a GPU transformers takes what fits
_OTHER_HALF = 0x9E3779B9  # added to a batch's seed for half of it, where memory ran out; torch's CPU reads 32 bits
_PROMPT_ROOM = 2048  # tokens of a prompt that vLLM sets memory apart for, at least
_BUFFER = 10_000  # prompts shuffled at a time


@dataclass(frozen=True)
class Prompt:
    """What the model answers: its token ids, BOS included, and the text they come from.

    Attributes:
        messages: of a chat, those before the answer; None if the prompt is no chat.
        longest: of a chat, tokens that it may have with its answer.
    """

    ids: tuple[int, ...]
    text: str
    messages: Messages | None = None
    longest: int = 0


@dataclass(frozen=True)
class Response:
    """One line of responses.jsonl. Healing reads `text`: prompt and response, without BOS and EOS. Or it is a chat.

    Attributes:
        text: None, and not written, where it is a chat.
        tokens: of the response.
        ended: whether the model ended it itself.
        prompt_tokens: of the prompt, BOS included.
        batch: which batch it was written in, 0-based; the batch's random numbers follow from the seed and this.
        messages: of a chat, the response's the last; None, and not written, where it is none.
    """

    text: str | None
    prompt: str
    response: str
    tokens: int
    ended: bool
    prompt_tokens: int
    batch: int
    messages: Messages | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Writer:
    """A model that is ready to write.

    Attributes:
        write: prompts in tokens, the most tokens of an answer, and a seed -> the answers in tokens.
        ends: the tokens that end an answer.
        limit: tokens of a prompt and its answer; None where there is no bound.
        at_once: prompts a batch.
    """

    write: Callable[[Sequence[tuple[int, ...]], int, int | None], list[list[int]]]
    ends: list[int]
    limit: int | None
    at_once: int


def transformers_writer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, tokens: int = 512) -> Writer:
    """A loaded model. On a GPU it writes as many answers at a time as fit; where memory runs out, half as many.

    Args:
        tokens: of a prompt and its answer, as far as is known.
    """

    def write(prompts: Sequence[tuple[int, ...]], most: int, seed: int | None) -> list[list[int]]:
        try:
            return write_answers(model, tokenizer, prompts, most, seed)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if len(prompts) < 2 or not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()
        half, other = len(prompts) // 2, None if seed is None else (seed + _OTHER_HALF) % (1 << 32)
        return write(prompts[:half], most, seed) + write(prompts[half:], most, other)

    at_once = rows_at_once(model, tokens, usual=_AT_ONCE["hf"])
    return Writer(write, end_tokens(model, tokenizer), longest_row(model.config), at_once)


@contextmanager
def vllm_writer(
    source: Source, tokenizer: PreTrainedTokenizerBase, *, row: int, response_tokens: int, device: str, dtype: str
) -> Iterator[Writer]:
    """The model on vLLM, in a process that ends with the block. What it raises: see `VllmWriter`.

    Args:
        row: tokens of a row to train on, and so of the longest chat.
    """
    from transformers import AutoConfig

    longest = longest_row(AutoConfig.from_pretrained(source.folder))
    limit = min(longest or sys.maxsize, max(_PROMPT_ROOM, row) + response_tokens)
    engine = VllmWriter(source, tokenizer, max_length=limit, device=device, dtype=dtype)
    with closing(engine):
        yield Writer(engine.write, engine.ends, limit, _AT_ONCE["vllm"])


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
        asked = _begun(_shuffled((d.text for d in reader if not held_out.measures(d)), seed))
        if reader.chats:
            return chat_prompts(tokenizer, asked, longest, loss_on=text.loss_on)
        return asked_prompts(tokenizer, asked)
    wanted = trainable(text, held_out)
    readers = [Documents(source, text.field, chats=True) for source in text.sources]

    def documents(reader: Documents) -> Iterator[str]:
        return (d.text for d in reader if wanted(d))

    shuffled = [_begun(_shuffled(documents(r), [seed, i] if i else seed)) for i, r in enumerate(readers)]
    if len({reader.chats for reader in readers}) > 1:
        raise TextError(
            "--teacher-data self: of --text, some are chats and others prose; name what it answers with --prompts"
        )
    found = _in_turns(shuffled)
    if readers[0].chats:
        return chat_prompts(tokenizer, found, longest, loss_on=text.loss_on)
    return opening_prompts(tokenizer, found)


def opening_prompts(tokenizer: PreTrainedTokenizerBase, documents: Iterator[str]) -> Iterator[Prompt]:
    """The first tokens of each document, for the model to go on from; no template."""
    head = [] if (bos := bos_id(tokenizer)) is None else [bos]
    for document in documents:
        ids = encode(tokenizer, document)
        if len(ids) >= SHORTEST:
            ids = ids[:OPENING]
            yield Prompt((*head, *ids), tokenizer.decode(ids))


def asked_prompts(tokenizer: PreTrainedTokenizerBase, questions: Iterator[str]) -> Iterator[Prompt]:
    """Each question as a user's message in the tokenizer's chat template, or as it stands where there is none."""
    bos = bos_id(tokenizer)
    opening = "" if bos is None else str(tokenizer.bos_token)
    for question in questions:
        text = question
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
        text = text.removeprefix(opening)  # some templates begin with BOS; packing opens each document with one
        ids = encode(tokenizer, text)
        yield Prompt((*ids,) if bos is None else (bos, *ids), text)


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

    Batch by batch they go into a file beside it, `partial(path)`, which becomes `path` when all are there. A run that
    was stopped goes on after the batches that it finds there (of the same prompts and settings); the last one, which
    may not be whole, is written anew. Of chats, those are left out that the model does not end, or that grow too long:
    what they would teach is to stop in the middle of a sentence.

    Args:
        prompts: from the first on, read until the budget is met.
        tokens: prompts, responses, a BOS and an EOS each.
        response_tokens: at most so many a response; sampled at temperature 1 from the likeliest 95 %.
        advance: called with the tokens that each batch gave.

    Raises:
        TextError: the prompts end before.
    """
    number, total = _go_on(partial(path))
    at_once = _rows_of(path, writer.at_once)
    advance(total)
    prompts = islice(prompts, number * at_once, None)
    with partial(path).open("ab") as file:
        while total < tokens:
            batch = list(islice(prompts, at_once))
            if not batch:
                raise TextError(
                    f"the prompts gave {total} of the {tokens} tokens asked for; give more with --prompts, raise "
                    "--response-tokens, or ask for fewer --tokens"
                )
            longest = max(len(prompt.ids) for prompt in batch)
            room = response_tokens if writer.limit is None else min(response_tokens, writer.limit - longest)
            if room < 1:
                raise TextError(f"a prompt of {longest} tokens leaves no room in the {writer.limit} that can be read")
            answers = writer.write([prompt.ids for prompt in batch], room, seed + number)
            written = [_response(tokenizer, *pair, writer.ends, number) for pair in zip(batch, answers, strict=True)]
            responses = [response for response in written if response is not None]
            lines = [json.dumps(response.to_json(), ensure_ascii=False) + "\n" for response in responses]
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            count = sum(response.prompt_tokens + response.tokens + 1 for response in responses)
            total, number = total + count, number + 1
            advance(count)
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


def _go_on(path: Path) -> tuple[int, int]:
    """Cut the last batch, and a line that breaks off, off an unfinished file: the batch to write, the tokens before."""
    if not path.exists():
        return 0, 0
    lines = path.read_bytes().splitlines(keepends=True)
    responses = []
    for line in lines:
        try:
            responses.append(json.loads(line))
        except ValueError:
            break
    last = responses[-1]["batch"] if responses else 0
    whole = [response for response in responses if response["batch"] < last]
    os.truncate(path, sum(map(len, lines[: len(whole)])))
    return last, sum(response["prompt_tokens"] + response["tokens"] + 1 for response in whole)


def _response(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int], ends: list[int], batch: int
) -> Response | None:
    """What the model wrote, or None where there is nothing to learn from it."""
    ended = bool(ids) and ids[-1] in ends
    words = tokenizer.decode(ids, skip_special_tokens=True)
    facts = (prompt.text, words, len(ids) - ended, ended, len(prompt.ids), batch)
    if not words.strip():
        return None
    if prompt.messages is None:
        return Response(prompt.text + words, *facts)
    whole = ended and len(prompt.ids) + len(ids) < prompt.longest
    return Response(None, *facts, [*prompt.messages, {"role": ASSISTANT, "content": words.strip()}]) if whole else None


def tally(path: Path) -> dict[str, int]:
    """What a responses.jsonl holds: how many responses, their tokens, and how many the model ended itself."""
    with path.open(encoding="utf-8") as file:
        responses = [json.loads(line) for line in file]
    return {
        "responses": len(responses),
        "tokens": sum(response["tokens"] for response in responses),
        "ended": sum(response["ended"] for response in responses),
    }


def _in_turns(streams: Sequence[Iterator[str]]) -> Iterator[str]:
    """One of each; where one has ended, the others go on."""
    for together in zip_longest(*streams):
        yield from (text for text in together if text is not None)


def _begun(texts: Iterator[str]) -> Iterator[str]:
    """The same, the first one read, so that what kind they are is known."""
    first = next(texts, None)
    return chain([] if first is None else [first], texts)


def _shuffled(texts: Iterator[str], seed: int | list[int]) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    while buffer := list(islice(texts, _BUFFER)):
        for index in rng.permutation(len(buffer)):
            yield buffer[index]
