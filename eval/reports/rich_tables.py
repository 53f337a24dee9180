"""Tables of the bill for a terminal: which columns are words, and how a table is explained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prune.common.tables import FittedTable

if TYPE_CHECKING:
    from rich.console import RenderableType

_WORDS = ("questions", "model", "text", "task", "metric", "loss in", "loss in A - loss in B")  # set to the left


def rich_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of plain cells; where a terminal is narrow, its columns of words give way, and then it is split."""
    return FittedTable(title, head, rows, words=frozenset(_WORDS))


def legend(words: str) -> RenderableType:
    """How to read the table above, in dim letters, with an empty line below."""
    from rich.text import Text

    return Text(f"{words}\n", style="dim")
