"""What the comparisons share of text: rows that are packed once, and healing text that holds nothing of a question."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

SAMPLE = Path(".sample")
MODEL, TEXT, HELD_OUT, QUESTIONS = (SAMPLE / name for name in ("model", "text.jsonl", "heldout.jsonl", "questions"))
_RUN = 8  # words in a row that tell a copy


def lines(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_rows(path: Path, *, tokens: int, length: int, seed: int = 0) -> int:
    """The rows that `heal distill --text TEXT --held-out HELD_OUT` trains on, in their order, as a .npz of arrays
    (rows, length): input_ids, position_ids, labels. Returns how many tokens of them are predicted.
    """
    import numpy as np

    from heal.text.sources import TextSource, hold_out, row_stream

    text = TextSource(str(TEXT), held_out=str(HELD_OUT))
    tokenizer = load_tokenizer()
    held_out = hold_out(text, tokenizer, length=length)
    rows = list(islice(row_stream(text, tokenizer, held_out, length=length, seed=seed), tokens // length))
    arrays = {
        "input_ids": np.stack([row.tokens for row in rows]),
        "position_ids": np.stack([row.positions for row in rows]),
        "labels": np.stack([row.labels for row in rows]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return sum(row.targets for row in rows)


def load_tokenizer():
    from prune.checkpoint.source import locate
    from prune.models.loading import load_tokenizer

    return load_tokenizer(locate(str(MODEL)))


def questions_of(domains: Sequence[str], sets: Sequence[str]) -> Iterator[str]:
    """All that may be judged: questions of these domains and sets, with their choices."""
    for domain in domains:
        for row in lines(QUESTIONS / f"{domain}.jsonl"):
            if row["source"] in sets:
                yield row["question"]
                yield from row.get("choices") or ()


def questions_in(domain: str, sets: Sequence[str], count: int) -> list[dict]:
    """Questions with choices of a domain, evenly from all of them."""
    rows = [row for row in lines(QUESTIONS / f"{domain}.jsonl") if row["source"] in sets and row.get("choices")]
    return rows[:: max(1, len(rows) // count)][:count]


def runs_of_words(text: str) -> Iterator[int]:
    """A number for each eight words in a row."""
    words = text.lower().split()
    return (hash(tuple(words[start : start + _RUN])) for start in range(len(words) - _RUN + 1))


def apart(texts: Iterable[str], judged: Iterable[str]) -> Iterator[str]:
    """The texts that have no eight words in a row with anything that is judged."""
    seen = {run for text in judged for run in runs_of_words(text)}
    return (text for text in texts if seen.isdisjoint(runs_of_words(text)))


def up_to(texts: Iterable[str], tokens: int, count) -> list[str]:
    """As many texts as make up so many tokens. `count` gives the tokens of one."""
    taken, total = [], 0
    for text in texts:
        if total >= tokens:
            break
        taken.append(text)
        total += count(text)
    if total < tokens:
        raise ValueError(f"the text has {total} of the {tokens} tokens asked for")
    return taken
