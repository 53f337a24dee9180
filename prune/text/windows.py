"""Windows of tokens, and the samples that a scan or a check draws from a text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.common.errors import TextError, UsageError
from prune.text.documents import SHORTEST, Document, read_documents, source_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SOURCE = "hub:allenai/c4:en:validation"
POOL = 20_000  # documents that samples are drawn from at most, so that a stream ends
FEW_TOKENS = 1024  # of held-out text; fewer say little


def source_sha256(source: str) -> str | None:
    """Hash of a local source's bytes (file names and contents); None for a hub source, named by its id."""
    if source.startswith("hub:"):
        return None
    digest = hashlib.sha256()
    for path in source_files(source):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def text_identity(source: str, field: str = "text") -> dict[str, Any]:
    """What provenance records of a text source."""
    return {"source": source, "field": field, "sha256": source_sha256(source)}


def named_sources(text: str | Sequence[str], option: str = "--text") -> tuple[str, ...]:
    """One source, or several, as a list of them.

    Raises:
        UsageError: none is named.
    """
    sources = (text,) if isinstance(text, str) else tuple(text)
    if not sources:
        raise UsageError(f"{option} names no text; give one source at least")
    return sources


def texts_identity(sources: Sequence[str], field: str = "text") -> dict[str, Any] | list[dict[str, Any]]:
    """The same of several sources: a list of them, and of one the identity itself."""
    identities = [text_identity(source, field) for source in sources]
    return identities[0] if len(identities) == 1 else identities


def bos_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that opens every window: without it some models' losses and angles are noise (Gemma: x 180,000)."""
    bos = tokenizer.bos_token_id
    return None if bos is None else int(bos)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` alone: no BOS, EOS or template."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@dataclass(frozen=True)
class Window:
    """One sample, of one document.

    ids: token ids, BOS first where the tokenizer has one.
    document: the document that it is of, by its number in the pool (0-based).
    start, stop: its tokens in that document (0-based, end excluded); BOS is not counted.
    whole: it is all of the document, not a stretch of a longer one.
    source: of several, which the document is from (0-based).
    """

    ids: list[int]
    document: int
    start: int
    stop: int
    whole: bool
    source: int = 0


def iter_windows(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    seed: int | list[int],
    read: Sequence[Window] = (),
) -> Iterator[Window]:
    """Samples in the order that the seed gives, until the text runs out: each at most `length` tokens of one document.

    A shorter document is taken whole; a longer one gives a window placed by the seed. Documents come without repeats
    and are never joined; those under 8 tokens are passed over. Where they run out, the longer ones give further
    windows, which overlap with none. Which document comes when follows from the seed and the number of documents
    alone, whatever the length.

    Args:
        length: tokens per window, at least 8, BOS included where the tokenizer has one.
        read: windows of the same documents that are not to be read again: their documents come last, and of these
            only what no window has read.
    """
    texts = [document.text for document in islice(documents, POOL)]
    rng = np.random.default_rng(seed)
    bos = bos_id(tokenizer)
    head = [] if bos is None else [bos]
    room = length - len(head)
    taken: dict[int, list[tuple[int, int]]] = {}
    for window in read:
        taken.setdefault(window.document, []).append((window.start, window.stop))
    longer: dict[int, np.ndarray] = {}  # documents that hold more than was taken
    for index in map(int, rng.permutation(len(texts))):
        ids = encode(tokenizer, texts[index])
        if len(ids) < SHORTEST:
            continue
        start = int(rng.integers(0, len(ids) - room + 1)) if len(ids) > room else 0
        stop = min(start + room, len(ids))
        if index not in taken:
            taken[index] = [(start, stop)]
            yield Window(head + ids[start:stop], index, start, stop, whole=len(ids) <= room)
        if sum(last - first for first, last in taken[index]) < len(ids):
            longer[index] = np.asarray(ids, dtype=np.int32)
    rest = []
    for index, document in longer.items():
        spans = _free_spans(taken[index], len(document), room)
        rest.append([(index, *spans[span]) for span in rng.permutation(len(spans))])
    for turn in zip_longest(*rest):  # one window of each document, then a second of each
        for index, start, stop in filter(None, turn):
            yield Window(head + longer[index][start:stop].tolist(), index, start, stop, whole=False)


def _free_spans(taken: Iterable[tuple[int, int]], length: int, room: int) -> list[tuple[int, int]]:
    """What is free of `length` tokens, as spans of at most `room` tokens and at least 8."""
    spans, begin = [], 0
    for first, last in [*sorted(taken), (length, length)]:
        spans += [(start, min(start + room, first)) for start in range(begin, first, room)]
        begin = max(begin, last)
    return [(first, last) for first, last in spans if last - first >= SHORTEST]


def draw_windows(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerBase, *, samples: int, length: int, seed: int
) -> list[list[int]]:
    """The token ids of the first `samples` of `iter_windows`; fewer where the text is shorter.

    Raises:
        TextError: there is none.
    """
    drawn = iter_windows(documents, tokenizer, length=length, seed=seed)
    windows = [window.ids for window in islice(drawn, samples)]
    if not windows:
        raise TextError(f"no document has {SHORTEST} tokens or more; give longer text with --text")
    return windows


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
) -> list[Window]:
    """Draw `samples` from all sources in equal shares, each as `iter_windows` gives them, taken in turns.

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
) -> tuple[list[Window], bool]:
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
        unread = list(_first(windows(length=length, read=read), wanted))
        if read and _tokens(unread) < min(wanted, FEW_TOKENS):
            again = list(_first(windows(length=length), wanted))
            if _tokens(again) > _tokens(unread):
                unread, apart = again, False
        drawn.append(_samples(unread, index, sources))
    return [sample for row in _turns(drawn) for sample in row], apart


def _tokens(windows: Iterable[Window]) -> int:
    return sum(len(window.ids) for window in windows)


def _seed(seed: int, source: int) -> int | list[int]:
    return [seed, source] if source else seed


def _samples(windows: Sequence[Window], source: int, sources: Sequence[str]) -> list[Window]:
    if not windows:
        where = "" if len(sources) == 1 else f" of {sources[source]}"
        raise TextError(f"no document{where} has {SHORTEST} tokens or more; give longer text with --text")
    return [replace(window, source=source) for window in windows]


def _first(windows: Iterable[Window], tokens: int) -> Iterator[Window]:
    for window in windows:
        if tokens <= 0:
            return
        yield window
        tokens -= len(window.ids)


def _turns(drawn: list[list[Window]]) -> list[list[Window]]:
    """One sample of each source after another, so that any stretch of the list is a fair share of all."""
    return [[part[turn] for part in drawn if turn < len(part)] for turn in range(max(map(len, drawn)))]
