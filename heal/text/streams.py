"""Training rows as a stream that can be left at any row and taken up there: shuffled, packed, of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from heal.text.packing import Packer, Row
from prune.text.documents import Documents
from prune.text.windows import SHORTEST, bos_id, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUFFER = 10_000  # documents shuffled at a time, so that a stream can be shuffled too
_CHARACTERS = 1 << 26  # and how much text they hold at most, so that a buffer of whole books stays in memory


class TextRows(Iterator[Row]):
    """Packed rows of one source. Its documents pass through a buffer from which they are drawn at random.

    All of a source that is smaller than the buffer is shuffled, and a stream without reading it to its end.

    Args:
        source: SOURCE as in `prune.text.documents`; `field` as there.
        length: tokens per row.
        seed: the order follows from it alone.
        wanted: whether to train on a text.
        state: what `state()` of another such stream gave, made with the same arguments.

    Raises:
        TextError: when read, see `Documents`.
    """

    def __init__(
        self,
        source: str,
        field: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        length: int,
        seed: int | list[int],
        wanted: Callable[[str], bool],
        state: dict[str, Any] | None = None,
    ) -> None:
        held = state or {"documents": None, "buffer": [], "ended": False, "packer": None}
        self.source = source
        self._tokenizer, self._wanted = tokenizer, wanted
        self._documents = Documents(source, field, state=held["documents"])
        self._buffer: list[str] = list(held["buffer"])
        self._characters = sum(map(len, self._buffer))
        self._ended: bool = held["ended"]
        self._rng = np.random.default_rng(seed)
        if state is not None:
            self._rng.bit_generator.state = state["rng"]
        self._packer = Packer(length, bos=bos_id(tokenizer), eos=tokenizer.eos_token_id, state=held["packer"])

    def __next__(self) -> Row:
        while (row := self._packer.take()) is None:
            text = self._text()
            if text is None:
                row = self._packer.last()
                if row is None:
                    raise StopIteration
                return row
            ids = encode(self._tokenizer, text)
            if len(ids) >= SHORTEST:
                self._packer.add(ids)
        return row

    def state(self) -> dict[str, Any]:
        """All that is needed to give the rows that would come next, as JSON: the buffered texts are in it."""
        return {
            "documents": self._documents.state(),
            "buffer": list(self._buffer),
            "ended": self._ended,
            "rng": self._rng.bit_generator.state,
            "packer": self._packer.state(),
        }

    def fill(self) -> None:
        """Read until the buffer is full or the source at its end; what is wrong with it shows here."""
        while not self._ended and len(self._buffer) < BUFFER and self._characters < _CHARACTERS:
            text = self._next_wanted()
            if text is not None:
                self._buffer.append(text)
                self._characters += len(text)

    def _text(self) -> str | None:
        self.fill()
        text = self._next_wanted()
        if text is None:
            return self._buffer.pop() if self._buffer else None
        index = int(self._rng.integers(len(self._buffer)))
        self._buffer[index], drawn = text, self._buffer[index]
        self._characters += len(text) - len(drawn)
        return drawn

    def _next_wanted(self) -> str | None:
        if self._ended:
            return None
        for document in self._documents:
            if self._wanted(document.text):
                return document.text
        self._ended = True
        self._buffer = [self._buffer[index] for index in self._rng.permutation(len(self._buffer))]
        return None


class Mixed(Iterator[Row]):
    """Rows of several streams in turns; where one has ended, the others go on."""

    def __init__(self, streams: Sequence[TextRows], *, turn: int = 0) -> None:
        self._streams, self._turn = list(streams), turn
        self.ended: list[str] = []  # sources that gave all they had

    def __next__(self) -> Row:
        for _ in self._streams:
            stream = self._streams[self._turn]
            self._turn = (self._turn + 1) % len(self._streams)
            row = next(stream, None)
            if row is not None:
                return row
            if stream.source not in self.ended:
                self.ended.append(stream.source)
        raise StopIteration

    def fill(self) -> None:
        """Read ahead as far as the shuffling does anyway, so that a source that cannot be read is found at once."""
        for stream in self._streams:
            stream.fill()

    def take(self, count: int) -> list[Row]:
        """The next `count` rows; fewer where the text ends before."""
        return list(islice(self, count))

    def state(self) -> dict[str, Any]:
        """Where every stream stands, as JSON."""
        return {"turn": self._turn, "streams": [stream.state() for stream in self._streams]}
