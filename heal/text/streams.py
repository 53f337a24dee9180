"""Training rows as a stream that can be left at any row and taken up there: shuffled, packed, of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from heal.text.chats import ChatTemplate, check_answer
from heal.text.packing import ChatPacker, Packer, Row
from prune.text.documents import Document, Documents
from prune.text.windows import SHORTEST, bos_id, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUFFER = 10_000  # documents shuffled at a time, so that a stream can be shuffled too
_CHARACTERS = 1 << 26  # and how much text they hold at most, so that a buffer of whole books stays in memory


class TextRows(Iterator[Row]):
    """Packed rows of one source. Its documents pass through a buffer from which they are drawn at random.

    All of a source that is smaller than the buffer is shuffled, and a stream without reading it to its end.

    Several processes share the documents, so that each tokenises its own alone: all read and draw the same ones in the
    same order, and each document goes to the process that has had the fewest characters so far. Which documents a
    process gets depends on nothing else, so they need not tell one another.

    Args:
        source: SOURCE as in `prune.text.documents`; `field` as there.
        length: tokens per row.
        seed: the order follows from it alone.
        wanted: whether to train on a document.
        loss_on: which tokens of chats bear loss; see `heal.text.chats`.
        share: the number of this process, 0-based, and how many there are.
        state: what `state()` of another such stream gave, made with the same arguments.

    Raises:
        TextError: when read, see `Documents` and `ChatTemplate`.
    """

    def __init__(
        self,
        source: str,
        field: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        length: int,
        seed: int | list[int],
        wanted: Callable[[Document], bool],
        loss_on: str = "answers",
        share: tuple[int, int] = (0, 1),
        state: dict[str, Any] | None = None,
    ) -> None:
        held = state or {"documents": None, "buffer": [], "ended": False, "packer": None}
        self._process = share[0]
        self._dealt: list[int] = list(held.get("dealt", [0] * share[1]))  # characters that each process has had
        self.source = source
        self._tokenizer, self._wanted, self._length, self._loss_on = tokenizer, wanted, length, loss_on
        self._documents = Documents(source, field, chats=True, state=held["documents"])
        self._buffer: list[str] = list(held["buffer"])
        self._characters = sum(map(len, self._buffer))
        self._ended: bool = held["ended"]
        self._rng = np.random.default_rng(seed)
        if state is not None:
            self._rng.bit_generator.state = state["rng"]
        self._packed = held["packer"]
        self._packer: Packer | ChatPacker | None = None  # which one is known once a document is read
        self._template: ChatTemplate | None = None

    def __next__(self) -> Row:
        packer = self._ready()
        while (row := packer.take()) is None:
            text = self._own_text()
            if text is None:
                row = packer.last()
                if row is None:
                    raise StopIteration
                return row
            self._add(packer, text)
        return row

    @property
    def chats(self) -> bool:
        """Whether the source holds chats; known once it is filled."""
        return self._documents.chats

    @property
    def counts(self) -> dict[str, int]:
        """Of the chats that were packed, see `ChatPacker`; {} for prose."""
        return self._packer.counts if isinstance(self._packer, ChatPacker) else {}

    def _ready(self) -> Packer | ChatPacker:
        if self._packer is None:
            self.fill()
            if self.chats:
                self._packer = ChatPacker(self._length, state=self._packed)
            else:
                tokenizer = self._tokenizer
                ends = {"bos": bos_id(tokenizer), "eos": tokenizer.eos_token_id}
                self._packer = Packer(self._length, **ends, state=self._packed)
        return self._packer

    def _add(self, packer: Packer | ChatPacker, text: str) -> None:
        if isinstance(packer, ChatPacker):
            chat = self._reader().render(text)
            packer.add(chat.ids, chat.bears)
        elif len(ids := encode(self._tokenizer, text)) >= SHORTEST:
            packer.add(ids)

    def _reader(self) -> ChatTemplate:
        if self._template is None:
            self._template = ChatTemplate(self._tokenizer, loss_on=self._loss_on)
        return self._template

    def state(self) -> dict[str, Any]:
        """All that is needed to give the rows that would come next, as JSON: the buffered texts are in it."""
        return {
            "documents": self._documents.state(),
            "buffer": list(self._buffer),
            "ended": self._ended,
            "rng": self._rng.bit_generator.state,
            "packer": self._packed if self._packer is None else self._packer.state(),
            **({"dealt": list(self._dealt)} if len(self._dealt) > 1 else {}),
        }

    def fill(self) -> None:
        """Read until the buffer is full or the source at its end; what is wrong with it shows here."""
        while not self._ended and len(self._buffer) < BUFFER and self._characters < _CHARACTERS:
            text = self._next_wanted()
            if text is not None:
                self._buffer.append(text)
                self._characters += len(text)

    def _own_text(self) -> str | None:
        """The next document that is dealt to this process."""
        while (text := self._text()) is not None:
            process = self._dealt.index(min(self._dealt))
            self._dealt[process] += len(text)
            if process == self._process:
                return text
        return None

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
            if document.chat:
                check_answer(document, self._loss_on)
                if self._template is None:
                    self._reader().render(document.text)  # a template that will not do is found at once
            if self._wanted(document):
                return document.text
        self._ended = True
        self._buffer = [self._buffer[index] for index in self._rng.permutation(len(self._buffer))]
        return None


class Mixed(Iterator[Row]):
    """Rows of several streams; where one has ended, the others go on.

    Args:
        shares: of each stream, summing to 1: each row is of the stream that is furthest behind its share, the first of
            equals. None: rows come in turns.
        state: what `state()` of another such mix gave; its streams stand where they stood.
    """

    def __init__(
        self,
        streams: Sequence[TextRows],
        *,
        shares: Sequence[float] | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        held = state or {}
        self._streams, self._shares = list(streams), shares
        self._turn: int = held.get("turn", 0)
        self._given: list[int] = list(held.get("given", [0] * len(self._streams)))  # rows of each stream
        self.ended: list[str] = []  # sources that gave all they had

    def __next__(self) -> Row:
        for index in self._order():
            row = next(self._streams[index], None)
            if row is not None:
                self._given[index] += 1
                self._turn = (index + 1) % len(self._streams)
                return row
            if self._streams[index].source not in self.ended:
                self.ended.append(self._streams[index].source)
        raise StopIteration

    def _order(self) -> list[int]:
        """The streams in the order in which the next row is asked of them."""
        count = len(self._streams)
        if self._shares is None:
            return [(self._turn + number) % count for number in range(count)]
        rows, shares = sum(self._given) + 1, self._shares
        return sorted(range(count), key=lambda index: self._given[index] - shares[index] * rows)

    @property
    def chats(self) -> bool:
        """Whether any source holds chats; known once they are filled."""
        return any(stream.chats for stream in self._streams)

    @property
    def counts(self) -> dict[str, int]:
        """Of the chats that were packed, see `heal.text.packing.ChatPacker`; {} where there are none."""
        counts = [stream.counts for stream in self._streams if stream.counts]
        return {name: sum(each[name] for each in counts) for name in (counts[0] if counts else ())}

    def fill(self) -> None:
        """Read ahead as far as the shuffling does anyway, so that a source that cannot be read is found at once."""
        for stream in self._streams:
            stream.fill()

    def take(self, count: int) -> list[Row]:
        """The next `count` rows; fewer where the text ends before."""
        return list(islice(self, count))

    def state(self) -> dict[str, Any]:
        """Where every stream stands, as JSON."""
        given = {"given": list(self._given)} if self._shares is not None else {}
        return {"turn": self._turn, **given, "streams": [stream.state() for stream in self._streams]}
