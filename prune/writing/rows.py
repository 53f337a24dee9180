"""Answers as rows of a file that grows batch by batch, and from which a run that was stopped goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.common.errors import TextError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from prune.text.chats import Messages
    from prune.writing.prompts import Prompt
    from prune.writing.writers import Writer

_SILENT = 64  # batches without a row, after which a model is said to write nothing


@dataclass(frozen=True)
class WrittenRow:
    """One line of a file of answers. What is None is not written.

    Attributes:
        text: prompt and answer, without the BOS and EOS that a reader of text adds; None of a chat that is kept as one.
        tokens: of the answer, without the one that ends it.
        finished: whether the model ended it itself.
        prompt_tokens: of the prompt, BOS included.
        batch: which batch it was written in, 0-based; the batch's random numbers follow from the seed and this.
        messages: of a chat, the answer's the last.
        source: the name of the file that the prompt is from.
        kind: how the prompt asks: fast, slow, or a document that the model goes on from.
        model: which wrote it.
    """

    text: str | None
    prompt: str
    answer: str
    tokens: int
    finished: bool
    prompt_tokens: int
    batch: int
    messages: Messages | None = None
    source: str | None = None
    kind: str | None = None
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


# A prompt, its answer in tokens, whether the model ended it, and the batch -> the row; None where nothing is kept.
MakeRow = Callable[["Prompt", list[int], bool, int], WrittenRow | None]


def answer_words(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """What an answer says, without special tokens."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def write_rows(
    writer: Writer,
    prompts: Iterator[Prompt],
    path: Path,
    make: MakeRow,
    *,
    at_once: int,
    tokens: int,
    answer_tokens: int,
    seed: int | None,
    few: str,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Have prompts answered until there are `tokens` tokens, and append the rows to `path`, batch by batch.

    What the last batch gives beyond them is left out.

    A run that was stopped goes on after the batches that it finds there (of the same prompts and settings); the last
    one, which may not be whole, is written anew.

    Args:
        prompts: from the first on, read until the budget is met.
        at_once: prompts a batch; of a run that goes on, as many as it was begun with.
        tokens: prompts, answers, a BOS and an EOS each.
        answer_tokens: at most so many an answer.
        seed: that of the first batch; each other has one of its own. None: always the likeliest token.
        few: what to do where the prompts end before, for the message.
        advance: called with the tokens that each batch gave.

    Raises:
        TextError: the prompts end before, a prompt leaves no room, or the model writes nothing.
    """
    number, total = go_on(path, tokens)
    advance(total)
    prompts = islice(prompts, number * at_once, None)
    silent = 0
    with path.open("ab") as file:
        while total < tokens:
            batch = list(islice(prompts, at_once))
            if not batch:
                raise TextError(f"the prompts gave {total} of the {tokens} tokens asked for; {few}")
            longest = max(len(prompt.ids) for prompt in batch)
            room = answer_tokens if writer.limit is None else min(answer_tokens, writer.limit - longest)
            if room < 1:
                raise TextError(f"a prompt of {longest} tokens leaves no room in the {writer.limit} that can be read")
            answers = writer.write([prompt.ids for prompt in batch], room, None if seed is None else seed + number)
            made = [
                make(prompt, ids, bool(ids) and ids[-1] in writer.ends, number)
                for prompt, ids in zip(batch, answers, strict=True)
            ]
            rows = [row for row in made if row is not None]
            silent = 0 if rows else silent + 1
            if silent == _SILENT:
                raise TextError(f"nothing that can be kept in the answers to {silent * at_once} prompts; {few}")
            count, kept = 0, list[WrittenRow]()
            for row in rows:  # the budget is passed by one row at most, whatever a batch holds
                if total + count >= tokens:
                    break
                kept.append(row)
                count += row.prompt_tokens + row.tokens + 1
            file.write("".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in kept).encode())
            file.flush()
            os.fsync(file.fileno())
            total, number = total + count, number + 1
            advance(count)


def go_on(path: Path, tokens: int) -> tuple[int, int]:
    """Cut off an unfinished file its last batch, a line that breaks off, and rows beyond `tokens`.

    Returns:
        The batch to write next, and the tokens before it.
    """
    if not path.exists():
        return 0, 0
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    last = rows[-1]["batch"] if rows else 0
    kept = total = 0
    for row in rows:
        if row["batch"] == last or total >= tokens:
            break
        kept += 1
        total += row["prompt_tokens"] + row["tokens"] + 1
    os.truncate(path, sum(map(len, lines[:kept])))
    return last, total
