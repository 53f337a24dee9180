"""Samples from one or several text sources, in equal shares, and held-out ones that a scan has not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from prune.errors import TextError
from prune.text import SHORTEST, Window, iter_windows, read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One sample: its token ids, the source it is from (0-based), and whether it is a whole document."""

    ids: list[int]
    source: int
    whole: bool


def shares(samples: int, sources: int) -> list[int]:
    """`samples` split as evenly as can be, the first sources taking what is left over; one each at least."""
    return [max(1, samples // sources + (index < samples % sources)) for index in range(sources)]


def draw_samples(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int,
    length: int,
    seed: int,
    field: str = "text",
) -> list[Sample]:
    """Draw `samples` from all sources in equal shares, each as `prune.text.draw_windows` would, taken in turns.

    Raises:
        TextError: a source is missing, empty or too short.
    """
    drawn = []
    for index, share in enumerate(shares(samples, len(sources))):
        found = list(islice(_windows(sources, index, tokenizer, length=length, seed=seed, field=field), share))
        if not found:
            where = "" if len(sources) == 1 else f" of {sources[index]}"
            raise TextError(f"no document{where} has {SHORTEST} tokens or more; name longer text with --text")
        drawn.append([Sample(window.ids, index, window.whole) for window in found])
    return [sample for row in _turns(drawn) for sample in row]


def draw_held_out(
    sources: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    tokens: int,
    length: int,
    seed: int,
    field: str = "text",
    skip: int = 0,
) -> tuple[list[Sample], bool]:
    """About `tokens` tokens of documents that come after the first `skip` samples of the same seed.

    Returns:
        The samples, in equal shares from all sources, and whether they are held out: where a source has no
        documents beyond those, its first ones are taken again.
    """
    how: dict[str, Any] = {"length": length, "seed": seed, "field": field}
    drawn, apart = [], True
    for index, share in enumerate(shares(skip, len(sources)) if skip else [0] * len(sources)):
        wanted = -(-tokens // len(sources))
        found = list(_first(islice(_windows(sources, index, tokenizer, **how), share, None), wanted))
        if not found:
            found, apart = list(_first(_windows(sources, index, tokenizer, **how), wanted)), False
        drawn.append([Sample(w.ids, index, w.whole) for w in found])
    return [sample for row in _turns(drawn) for sample in row], apart


def _windows(
    sources: Sequence[str], index: int, tokenizer: PreTrainedTokenizerBase, *, length: int, seed: int, field: str
) -> Iterator[Window]:
    documents = read_documents(sources[index], field=field)
    return iter_windows(documents, tokenizer, length=length, seed=[seed, index] if index else seed)


def _first(windows: Iterable[Window], tokens: int) -> Iterator[Window]:
    for window in windows:
        if tokens <= 0:
            return
        yield window
        tokens -= len(window.ids)


def _turns(drawn: list[list[Sample]]) -> list[list[Sample]]:
    """One sample of each source after another, so that any stretch of the list is a fair share of all."""
    return [[part[place] for part in drawn if place < len(part)] for place in range(max(map(len, drawn)))]
