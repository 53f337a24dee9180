"""Documents from SOURCE, one after another, from its start or from a place where an earlier reader stopped.

SOURCE is a `.txt`, `.jsonl`, `.jsonl.gz` or `.parquet` file, a folder of such, or `hub:repo[:config[:split]]`.
Its rows are prose, in a field of text, or chats, in a field `messages`: a list of objects with `role` and `content`.
"""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prune.common.errors import TextError, first_line

SUFFIXES = (".txt", ".jsonl", ".jsonl.gz", ".parquet")
MESSAGES = "messages"  # the field that holds a chat
SHORTEST = 8  # tokens; a shorter document says nothing about depth
_USEFUL_CHARACTERS = 1200  # paragraphs of a .txt file are joined until a document has about this many
_LONGEST_PARAGRAPH = 20_000  # characters; what has more between two blank lines is split at its lines
_Found = tuple["Document", int, Any]  # a document, its row (0-based), and the place in the file after it


@dataclass(frozen=True)
class Document:
    """One document and where it stands: `file:row` (0-based). The `text` of a `chat` is its messages as JSON.

    `also`: the other fields of its row that were asked for, as far as it has text in them. `field`: the one of its
    row that the text stands in; "" where rows have no fields.
    """

    text: str
    place: str
    chat: bool = False
    also: Mapping[str, Any] = field(default_factory=dict)
    field: str = ""

    @property
    def where(self) -> str:
        """The place in words, rows counted from 1."""
        name, _, row = self.place.rpartition(":")
        return f"{name} row {int(row) + 1}"


@dataclass(frozen=True)
class _Wanted:
    """What is read of a row: the first of `fields` that it has, and `also` and `lists`, see `Documents`."""

    fields: tuple[str, ...]
    also: tuple[str, ...]
    lists: tuple[str, ...]
    lines: bool


class Documents(Iterator[Document]):
    """The documents of SOURCE in their order, without holding the source in memory; blank ones are passed over.

    Args:
        source: see the module docstring.
        field: the field of .jsonl and .parquet rows, and of hub rows, that holds the text; of several names the first
            that a row has. A row without it that has `messages` is a chat; `field="messages"` takes them where a row
            has both.
        chats: whether chats are read; if not, they are an error.
        also: names of other fields that are read where a row has text in them, such as where it comes from.
        lists: names of fields that are read where a row has a list of texts in them; they stand in `also` too.
        lines: whether each line of a .txt file is a document.
        state: what `state()` of another reader of the same source gave: goes on after the document it gave last.
            A file is entered where that stands (a .gz file is unpacked up to there, unread); of a parquet file the row
            group is read again; for the hub, `datasets` decides (the shard that was open, in general).

    Raises:
        TextError: nothing there, unreadable, no such field, not a single document, or both prose and chats.
    """

    def __init__(
        self,
        source: str,
        field: str | Sequence[str] = "text",
        *,
        chats: bool = False,
        also: Iterable[str] = (),
        lists: Iterable[str] = (),
        lines: bool = False,
        state: dict[str, Any] | None = None,
    ) -> None:
        fields = (field,) if isinstance(field, str) else tuple(field)
        self.source, self._takes_chats = source, chats
        self._wanted = _Wanted(fields, tuple(also), tuple(lists), lines)
        self._state: dict[str, Any] = {"count": 0, "file": 0, "row": 0, "at": None} | (state or {})
        self._hub: Any = None
        self._rows = self._hub_rows() if source.startswith("hub:") else self._local_rows()

    def __next__(self) -> Document:
        for document in self._rows:
            if document.text.strip():
                self._check_kind(document)
                self._state["count"] += 1
                return document
        if not self._state["count"]:
            raise TextError(f"{self.source} holds no text; give a source with documents in it")
        raise StopIteration

    @property
    def chats(self) -> bool:
        """Whether the documents that were read are chats."""
        return bool(self._state.get("chats"))

    def _check_kind(self, document: Document) -> None:
        if document.chat and not self._takes_chats:
            raise TextError(
                f"{document.where} is a chat (`messages`), and only prose is read here; name a field of text with "
                "--field, or give other text"
            )
        if not self._state["count"]:
            self._state |= {"chats": True} if document.chat else {}
        elif document.chat != self.chats:
            kinds = ("a chat", "prose") if document.chat else ("prose", "a chat")
            raise TextError(
                f"{document.where} is {kinds[0]}, and what stands before it in {self.source} is {kinds[1]}; keep "
                "chats and prose in two sources, and give each with a --text of its own"
            )

    def state(self) -> dict[str, Any]:
        """The place after the document given last, as JSON; to be handed to another reader of the same source."""
        hub = {} if self._hub is None else {"hub": copy.deepcopy(self._hub.state_dict())}
        return {**self._state, **hub}

    def _local_rows(self) -> Iterator[Document]:
        files = source_files(self.source)
        for index in range(self._state["file"], len(files)):
            path = files[index]
            for document, row, after in _file_rows(path, self._wanted, self._state["row"], self._state["at"]):
                self._state |= {"row": row + 1, "at": after}
                yield document
            self._state |= {"file": index + 1, "row": 0, "at": None}

    def _hub_rows(self) -> Iterator[Document]:
        parts = self.source.split(":")[1:]
        if not 1 <= len(parts) <= 3 or not parts[0]:
            raise TextError(f"{self.source} is not of the form hub:repo[:config[:split]]")
        repo, config, split = [*parts, "", ""][:3]
        from datasets import load_dataset

        try:
            rows = load_dataset(repo, config or None, split=split or "train", streaming=True)
            if "hub" in self._state:
                rows.load_state_dict(self._state["hub"])
            self._hub = rows
            for row, value in enumerate(rows, self._state["row"]):
                self._state["row"] = row + 1
                yield _of_row(value, self._wanted, f"{repo} line {row + 1}", f"{repo}:{row}")
        except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise, network included
            reason = first_line(error)
            raise TextError(f"{self.source} cannot be read ({reason}); use local text with --text FILE") from None


def read_documents(source: str, *, field: str = "text", also: Iterable[str] = ()) -> Iterator[Document]:
    """The prose of SOURCE from its start; see `Documents`."""
    return Documents(source, field, also=also)


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
    raise TextError(f"{source} does not exist; --text and its like take a file, a folder or hub:repo[:config[:split]]")


def local_files(sources: Iterable[str | None]) -> tuple[Path, ...]:
    """The files of all of these SOURCEs that are on this machine. None, the hub and what is no text give none."""
    files: list[Path] = []
    for source in sources:
        if source is not None:
            with suppress(TextError):
                files += source_files(source)
    return tuple(files)


def _file_rows(path: Path, wanted: _Wanted, row: int, at: Any) -> Iterator[_Found]:
    """The documents of a file from the place `at` on (None for its start), which is where row `row` stands."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, wanted, at or [0, 0])
            return
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            if path.suffix == ".txt" and not wanted.lines:
                begin, split = at or [0, False]
                file.seek(begin)
                for number, (text, end) in enumerate(_paragraph_documents(_lines(file, begin), split), row):
                    yield Document(text, f"{path.name}:{number}"), number, end
                return
            file.seek(at or 0)
            for line, after in _lines(file, at or 0):
                if line.strip():
                    place = f"{path.name}:{row}"
                    if path.suffix == ".txt":
                        yield Document(line.strip(), place), row, after
                    else:
                        where = f"{path} line {row + 1}"
                        yield _of_row(_parsed(line, where), wanted, where, place), row, after
                row += 1
    except UnicodeDecodeError:
        raise TextError(f"{path} is not UTF-8 text") from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise TextError(f"{path} is not a whole gzip file") from None


def _lines(file: Iterable[bytes], at: int) -> Iterator[tuple[str, int]]:
    """Lines of a file that is read from byte `at` on, each with the byte after it."""
    for line in file:
        at += len(line)
        yield line.decode("utf-8"), at


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # a ValueError is also a whole number of thousands of digits
        raise TextError(f"{where} is not JSON") from None


def _of_row(value: Any, wanted: _Wanted, where: str, place: str) -> Document:
    """The document in a row; `where` that stands is for errors."""
    if not isinstance(value, dict):
        raise TextError(f'{where} is {_kind(value)}, not an object such as {{"{wanted.fields[0]}": "..."}}')
    field = next((name for name in wanted.fields if value.get(name) is not None), wanted.fields[0])
    text = value.get(field)
    messages = value.get(MESSAGES) if text is None else text
    if isinstance(messages, list) and (text is None or field == MESSAGES):
        return Document(_chat(messages, where), place, True, _others(value, wanted), MESSAGES)
    if not isinstance(text, str):
        if field in value:
            raise TextError(f"{where}: {field!r} is {_kind(text)}, not text; name a field of text with --field")
        names = " or ".join(map(repr, wanted.fields))
        raise TextError(
            f"{where} has no text field {names} (it has: {', '.join(sorted(value)) or 'none'}); name one with --field"
        )
    return Document(text, place, False, _others(value, wanted), field)


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = ((str, "a text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"))
    return next((words for kind, words in kinds if isinstance(value, kind)), type(value).__name__)


def _others(value: Mapping[str, Any], wanted: _Wanted) -> dict[str, Any]:
    """The other fields that were asked for, as far as a row has text in them."""
    also: dict[str, Any] = {name: value[name] for name in wanted.also if isinstance(value.get(name), str)}
    for name in wanted.lists:
        if isinstance(parts := value.get(name), list) and all(isinstance(part, str) for part in parts):
            also[name] = parts
    return also


def _chat(messages: list[Any], where: str) -> str:
    """The messages as JSON, without what is null (as a .parquet file has it of what a message lacks)."""
    if not messages:
        raise TextError(f"{where}: its `messages` are empty")
    for number, message in enumerate(messages, 1):
        for key in ("role", "content"):
            if not isinstance(message, dict) or not isinstance(message.get(key), str):
                raise TextError(f"{where}: message {number} of its `messages` has no text in `{key}`")
    stated = [{key: value for key, value in message.items() if value is not None} for message in messages]
    return json.dumps(stated, ensure_ascii=False, default=str)


def _paragraph_documents(lines: Iterable[tuple[str, int]], split: bool) -> Iterator[tuple[str, list[Any]]]:
    """Split at blank lines, then join neighbours until a document is long enough to be useful.

    What is too long to be a paragraph is split at its lines, and these are joined in the same way.

    Args:
        split: the first line stands in a piece that is split at its lines.

    Yields:
        Each document, and its end: the byte after it, and whether that stands in such a piece.
    """
    document = ""
    piece: list[tuple[str, int]] = []  # lines since the last blank one, while they may be a paragraph
    size = length = at = 0
    for line, after in lines:
        at = after
        if line.strip():
            piece.append((line.rstrip("\r\n"), after))
            length += len(piece[-1][0])
            if not split and length <= _LONGEST_PARAGRAPH:
                continue
            for words, end in piece:
                document += ("\n" if split else "\n\n") * bool(document) + words
                size += len(words)
                split = True
                if size >= _USEFUL_CHARACTERS:
                    yield document, [end, True]
                    document, size = "", 0
            piece, length = [], 0
            continue
        if piece:
            paragraph = "\n".join(words for words, _ in piece)
            document += "\n\n" * bool(document) + paragraph
            size += len(paragraph)
        piece, length, split = [], 0, False
        if size >= _USEFUL_CHARACTERS:
            yield document, [at, False]
            document, size = "", 0
    document += "\n\n" * bool(document and piece) + "\n".join(words for words, _ in piece)
    if document:
        yield document, [at, split]


def _parquet_rows(path: Path, wanted: _Wanted, at: list[int]) -> Iterator[_Found]:
    """`at` is a row group, and a row in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        names = table.schema_arrow.names
        there = [name for name in (*wanted.fields, MESSAGES) if name in names]
        if not there:
            fields, asked = ", ".join(names), " or ".join(map(repr, wanted.fields))
            raise TextError(f"{path} has no column {asked} (it has: {fields}); name one with --field")
        column = there[0]
        kinds = (str, list) if column == MESSAGES else str
        others = [name for name in (*wanted.also, *wanted.lists) if name in names and name != column]
        first = sum(table.metadata.row_group(group).num_rows for group in range(at[0]))
        for group in range(at[0], table.num_row_groups):
            row = 0
            for batch in table.iter_batches(row_groups=[group], columns=[column, *others]):
                for values in batch.to_pylist():
                    number = first + row
                    if isinstance(values[column], kinds) and (group > at[0] or row >= at[1]):
                        where, place = f"{path} line {number + 1}", f"{path.name}:{number}"
                        yield _of_row(values, replace(wanted, fields=(column,)), where, place), number, [group, row + 1]
                    row += 1
            first += row
    except (pa.ArrowInvalid, OSError) as error:
        raise TextError(f"{path} is not a whole parquet file ({first_line(error)})") from None
