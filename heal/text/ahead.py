"""The next step's rows, read and tokenised by a thread while this one is trained on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from heal.text.packing import Row

_PATIENCE = 5.0  # seconds that an end waits for the thread, which may be waiting for a network


class Rows(Protocol):
    """Training rows in their order: `heal.text.streams.Mixed`, or those read ahead of it."""

    @property
    def chats(self) -> bool: ...

    @property
    def counts(self) -> dict[str, int]: ...

    @property
    def ended(self) -> Sequence[str]: ...

    def take(self, count: int) -> list[Row]: ...

    def state(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Taken:
    """Some rows, and how the stream stood right behind the last of them; or what went wrong."""

    rows: list[Row] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    ended: tuple[str, ...] = ()
    error: BaseException | None = None


class Ahead:
    """Rows of a stream, one `take` ahead. All that it tells is of the rows that were taken, not of those read ahead.

    So a run that goes on from `state` gets the row after the last one that was trained on, as without the thread. What
    is wrong with the text is raised when its rows are taken. Leaving the block waits for the thread, five
    seconds at most.

    Args:
        rows: to be used by nobody else meanwhile.
        takes: how many there will be at most; nothing is read ahead of the last.
    """

    def __init__(self, rows: Rows, takes: int) -> None:
        self._rows, self._left = rows, takes
        self._at = self._stand([])
        self._next: _Taken | None = None
        self._count = 0  # rows that are read ahead
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    @property
    def chats(self) -> bool:
        """Whether any source holds chats."""
        return self._rows.chats

    @property
    def counts(self) -> dict[str, int]:
        """Of the chats that were packed, see `heal.text.packing.ChatPacker`."""
        return self._at.counts

    @property
    def ended(self) -> Sequence[str]:
        """Sources that gave all they had."""
        return self._at.ended

    def state(self) -> dict[str, Any]:
        """Where every stream stands behind the last row taken; see `heal.text.streams.Mixed.state`."""
        return self._at.state

    def take(self, count: int) -> list[Row]:
        """The next `count` rows; fewer where the text ends before.

        Raises:
            ValueError: another count than before.
            TextError: see `heal.text.streams.TextRows`.
        """
        if self._thread is None:
            self._read(count)
        elif count != self._count:
            raise ValueError(f"{count} rows are asked for, and {self._count} were read ahead")
        else:
            self._thread.join()
        taken, self._next, self._thread = self._next, None, None
        assert taken is not None
        if taken.error is not None:
            raise taken.error
        self._at = taken
        self._left -= 1
        if self._left > 0 and len(taken.rows) == count:
            self._count = count
            self._thread = threading.Thread(target=self._read, args=(count,), name="rows ahead", daemon=True)
            self._thread.start()
        return taken.rows

    def _read(self, count: int) -> None:
        try:
            self._next = self._stand(self._rows.take(count))
        except BaseException as error:  # it belongs to whoever takes these rows
            self._next = _Taken(error=error)

    def _stand(self, rows: list[Row]) -> _Taken:
        return _Taken(rows, self._rows.state(), dict(self._rows.counts), tuple(self._rows.ended))
