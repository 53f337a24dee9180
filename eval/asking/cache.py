"""Answers of one model under one set of settings, kept in a file that only ever grows.

Each line is one answer, with a checksum before it and the number of requests that were asked at a time. Last digits
depend on that number: a record tells it, and no answer is looked up by it. A run that is killed loses at most the line
it was writing, which the next run passes over; so an interrupted run goes on where it stopped. Which file an answer
belongs to is settled by the content of the model's files, never by its name.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError
from prune.common.files.outputs import write_json
from prune.common.files.provenance import digest

LAYOUT = 1  # of the lines below; another number, another folder


def request_key(kind: str, arguments: Any) -> str:
    """The key of one request: its kind and all that is asked (prompt and continuation, or generation settings)."""
    return digest([kind, arguments])[:32]


class AnswerStore:
    """Answers by request, in memory; in `<folder>/<scope>/answers.jsonl` as well, where a folder is given.

    `scope` is all that an answer depends on besides its request: the model's content, precision, backend, versions.
    """

    def __init__(self, folder: Path | None = None, scope: Mapping[str, Any] | None = None) -> None:
        self._known: dict[str, Any] = {}
        self._rows: dict[str, int] = {}
        self._file: int | None = None
        self._folder = folder
        if folder is None:
            return
        scoped = folder / digest([LAYOUT, scope])[:32]
        try:
            scoped.mkdir(parents=True, exist_ok=True)
            if not (scoped / "scope.json").exists():
                write_json(scoped / "scope.json", dict(scope or {}), overwrite=True)
            self._file = os.open(scoped / "answers.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            self._read()
        except OSError as error:
            raise RegrowthError(
                f"--cache {folder} cannot be used ({error.strerror or error}); name another folder, or add --no-cache"
            ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Any:
        return self._known[key]

    def rows(self, key: str) -> int | None:
        """How many requests were asked at a time when this one was; None where that is unknown, or changes nothing."""
        return self._rows.get(key)

    def add(self, key: str, value: Any, rows: int | None = None) -> None:
        """Keep one answer, JSON; the first of a key stays. One with NaN or infinity does not go to the file.

        Args:
            rows: requests at a time; None where the answer does not depend on it.

        Raises:
            RegrowthError: the file cannot be written, such as on a full disk.
        """
        if key in self._known:
            return
        self._take(key, value, rows)
        if self._file is None:
            return
        try:
            line = format_line(key, value, rows)
        except ValueError:
            return
        try:
            while line:  # one append as a rule, so that lines of two runs do not mix; a disk that fills up takes a part
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise RegrowthError(
                f"--cache {self._folder} takes no more answers ({error.strerror or error}); make room there, name "
                "another folder, or add --no-cache; the answers before this one are kept"
            ) from error

    def close(self) -> None:
        """Bring the file to the disk."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def _read(self) -> None:
        assert self._file is not None
        with os.fdopen(os.dup(self._file), "rb") as file:
            content = file.read()
        for line in content.split(b"\n"):
            if (entry := parse_line(line)) is not None and entry[0] not in self._known:
                self._take(*entry)
        if content and not content.endswith(b"\n"):  # a run was killed in the middle of a line
            os.write(self._file, b"\n")

    def _take(self, key: str, value: Any, rows: int | None) -> None:
        self._known[key] = value
        if rows is not None:
            self._rows[key] = rows


def format_line(key: str, value: Any, rows: int | None = None) -> bytes:
    """`checksum [key, value, rows]` and a line feed, without the rows where they are None.

    The checksum is CRC-32 of what follows it, in hex.
    """
    text = json.dumps([key, value] if rows is None else [key, value, rows], allow_nan=False).encode()
    return f"{zlib.crc32(text):08x} ".encode() + text + b"\n"


def parse_line(line: bytes) -> tuple[str, Any, int | None] | None:
    """The key, value and rows of a line (older ones have no rows); None where it is empty, cut short or damaged."""
    mark, _, text = line.partition(b" ")
    try:
        if len(mark) != 8 or int(mark, 16) != zlib.crc32(text):
            return None
        key, value, *rows = json.loads(text)
    except ValueError:
        return None
    return key, value, rows[0] if rows else None
