"""Documents from SOURCE, and samples of token windows drawn from them by a seed.

SOURCE is a `.txt`, `.jsonl`, `.jsonl.gz` or `.parquet` file, a folder of such, or `hub:repo[:config[:split]]`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.errors import TextError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SOURCE = "hub:allenai/c4:en:validation"
SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
SHORTEST = 8  # tokens; a shorter document says nothing about depth
_USEFUL_CHARACTERS = 1200  # paragraphs of a .txt file are joined until a document has about this many


@dataclass(frozen=True)
class Document:
    """One document and where it stands: `file:row` (0-based)."""

    text: str
    place: str


def read_documents(source: str, *, field: str = "text") -> Iterator[Document]:
    """Yield the documents of SOURCE in their order, without holding the source in memory.

    Args:
        source: see the module docstring.
        field: the field of .jsonl and .parquet rows, and of hub rows, that holds the text.

    Raises:
        TextError: nothing there, unreadable, no such field, or not a single document.
    """
    count = 0
    for document in _rows(source, field):
        if document.text.strip():
            count += 1
            yield document
    if not count:
        raise TextError(f"{source} holds no text; name a --text with documents in it")


def _rows(source: str, field: str) -> Iterator[Document]:
    if source.startswith("hub:"):
        yield from _hub_rows(source, field)
        return
    for path in source_files(source):
        yield from _file_rows(path, field)


def source_files(source: str) -> list[Path]:
    """The files of a local SOURCE, sorted by name."""
    path = Path(source).expanduser()
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise TextError(f"{source} is none of {', '.join(SUFFIXES)}")
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        if not found:
            raise TextError(f"{source} holds no {', '.join(SUFFIXES)} file")
        return found
    raise TextError(f"{source} does not exist; --text takes a file, a folder or hub:repo[:config[:split]]")


def _file_rows(path: Path, field: str) -> Iterator[Document]:
    try:
        if path.suffix == ".txt":
            with path.open(encoding="utf-8") as file:
                for row, text in enumerate(_paragraph_documents(file)):
                    yield Document(text, f"{path.name}:{row}")
        elif path.suffix == ".parquet":
            yield from _parquet_rows(path, field)
        else:
            opener: Any = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8") as file:
                for row, line in enumerate(file):
                    if line.strip():
                        yield Document(_field_of(json.loads(line), field, path, row), f"{path.name}:{row}")
    except UnicodeDecodeError:
        raise TextError(f"{path} is not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError):
        raise TextError(f"{path} line {row + 1} is not JSON") from None
    except (gzip.BadGzipFile, EOFError):
        raise TextError(f"{path} is not a whole gzip file") from None


def _field_of(value: Any, field: str, path: Path, row: int) -> str:
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        fields = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
        raise TextError(f"{path} line {row + 1} has no text field {field!r} (it has: {fields}); name one with --field")
    return text


def _paragraph_documents(lines: Iterable[str]) -> Iterator[str]:
    """Split at blank lines, then join neighbours until a document is long enough to be useful."""
    document: list[str] = []
    paragraph: list[str] = []
    size = 0
    for line in [*lines, "\n"]:
        if line.strip():
            paragraph.append(line.rstrip("\n"))
            continue
        if paragraph:
            document.append("\n".join(paragraph))
            size += len(document[-1])
            paragraph = []
        if size >= _USEFUL_CHARACTERS:
            yield "\n\n".join(document)
            document, size = [], 0
    if document:
        yield "\n\n".join(document)


def _parquet_rows(path: Path, field: str) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        if field not in table.schema_arrow.names:
            fields = ", ".join(table.schema_arrow.names)
            raise TextError(f"{path} has no column {field!r} (it has: {fields}); name one with --field")
        row = 0
        for batch in table.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                if isinstance(value, str):
                    yield Document(value, f"{path.name}:{row}")
                row += 1
    except pa.ArrowInvalid as error:
        raise TextError(f"{path} is not a parquet file ({str(error).splitlines()[0]})") from None


def _hub_rows(source: str, field: str) -> Iterator[Document]:
    parts = source.split(":")[1:]
    if not 1 <= len(parts) <= 3 or not parts[0]:
        raise TextError(f"{source} is not of the form hub:repo[:config[:split]]")
    repo, config, split = [*parts, "", ""][:3]
    from datasets import load_dataset

    try:
        rows = load_dataset(repo, config or None, split=split or "train", streaming=True)
        for row, value in enumerate(rows):
            yield Document(_field_of(value, field, Path(repo), row), f"{repo}:{row}")
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise, network included
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TextError(f"{source} cannot be read ({line[:160]}); name local text with --text FILE") from None


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


def bos_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that opens every window: without it some models' losses and angles are noise (Gemma: x 180,000)."""
    found = tokenizer.bos_token_id
    return None if found is None else int(found)


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text` alone: no BOS, EOS or template."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


@dataclass(frozen=True)
class Window:
    """Token ids of one sample; `whole` where they are all of a document, not a stretch of a longer one."""

    ids: list[int]
    whole: bool


def iter_windows(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    seed: int | list[int],
    pool: int = 20_000,
) -> Iterator[Window]:
    """Samples in the order that the seed gives, until the documents run out; see `draw_windows`.

    Which document comes when follows from the seed and the number of documents alone, whatever the length.
    """
    texts = []
    for document in documents:
        texts.append(document.text)
        if len(texts) >= pool:
            break
    rng = np.random.default_rng(seed)
    bos = bos_id(tokenizer)
    head = [] if bos is None else [bos]
    room = length - len(head)
    for index in rng.permutation(len(texts)):
        ids = encode(tokenizer, texts[index])
        if len(ids) < SHORTEST:
            continue
        start = int(rng.integers(0, len(ids) - room + 1)) if len(ids) > room else 0
        yield Window(head + ids[start : start + room], whole=len(ids) <= room)


def draw_windows(
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    samples: int,
    length: int,
    seed: int,
    pool: int = 20_000,
) -> list[list[int]]:
    """Draw samples: each at most `length` tokens of one document, BOS included where the tokenizer has one.

    A shorter document is taken whole; a longer one gives a window placed by the seed. Documents are drawn
    without repeats until they run out and never joined; those under 8 tokens are passed over.

    Args:
        documents: the source; only its first `pool` documents are considered, so that a stream ends.
        samples: how many windows are wanted; fewer come back where there are fewer documents.
        length: tokens per window, BOS included; at least 8.
        seed: places and order follow from it alone.

    Returns:
        Up to `samples` lists of token ids, in drawn order.
    """
    drawn = iter_windows(documents, tokenizer, length=length, seed=seed, pool=pool)
    windows = [window.ids for window in islice(drawn, samples)]
    if not windows:
        raise TextError(f"no document has {SHORTEST} tokens or more; name longer text with --text")
    return windows
