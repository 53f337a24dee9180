"""Samples from one or several text sources, in equal shares, and held-out ones that a scan has not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from prune.common.errors import TextError
from prune.text.windows import POOL, SHORTEST, Window, iter_windows, read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEW_TOKENS = 1024  # of held-out text; fewer say little


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
    """Draw `samples` from all sources in equal shares, each as `prune.text.windows.draw_windows` would, taken in turns.

    Raises:
        TextError: a source is missing, empty or too short.
    """
    drawn = []
    for index, share in enumerate(shares(samples, len(sources))):
        documents = read_documents(sources[index], field=field)
        windows = iter_windows(documents, tokenizer, length=length, seed=_seed(seed, index))
        drawn.append(_samples(list(islice(windows, share)), index, sources))
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
    skip_length: int | None = None,
) -> tuple[list[Sample], bool]:
    """About `tokens` tokens of text that the first `skip` samples of the same seed have not read.

    Args:
        length: most tokens of a window here.
        skip_length: most tokens of those samples; `length` if None.

    Returns:
        The samples, in equal shares from all sources, and whether they are held out: documents that were not read
        come first, then what is unread of longer ones; where that is under 1,024 tokens and less than asked, the first
        documents are taken again.

    Raises:
        TextError: a source is missing, empty or too short.
    """
    drawn, apart = [], True
    wanted = -(-tokens // len(sources))
    for index, share in enumerate(shares(skip, len(sources)) if skip else [0] * len(sources)):
        documents = list(islice(read_documents(sources[index], field=field), POOL))
        windows = partial(iter_windows, documents, tokenizer, seed=_seed(seed, index))
        read = list(islice(windows(length=skip_length or length), share))
        found = list(_first(windows(length=length, read=read), wanted))
        if read and _tokens(found) < min(wanted, FEW_TOKENS):
            again = list(_first(windows(length=length), wanted))
            if _tokens(again) > _tokens(found):
                found, apart = again, False
        drawn.append(_samples(found, index, sources))
    return [sample for row in _turns(drawn) for sample in row], apart


def _tokens(windows: Iterable[Window]) -> int:
    return sum(len(window.ids) for window in windows)


def _seed(seed: int, source: int) -> int | list[int]:
    return [seed, source] if source else seed


def _samples(windows: Sequence[Window], source: int, sources: Sequence[str]) -> list[Sample]:
    if not windows:
        where = "" if len(sources) == 1 else f" of {sources[source]}"
        raise TextError(f"no document{where} has {SHORTEST} tokens or more; name longer text with --text")
    return [Sample(window.ids, source, window.whole) for window in windows]


def _first(windows: Iterable[Window], tokens: int) -> Iterator[Window]:
    for window in windows:
        if tokens <= 0:
            return
        yield window
        tokens -= len(window.ids)


def _turns(drawn: list[list[Sample]]) -> list[list[Sample]]:
    """One sample of each source after another, so that any stretch of the list is a fair share of all."""
    return [[part[place] for part in drawn if place < len(part)] for place in range(max(map(len, drawn)))]
