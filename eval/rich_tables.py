"""Tables for a terminal: words may break over lines, numbers with their intervals never do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_WORDS = ("questions", "model", "text", "task", "metric", "loss in", "loss in A - loss in B")  # set to the left


def rich_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of plain cells; where a terminal is narrow, its columns of words give way."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in head:
        words = name in _WORDS
        table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        table.add_row(*row)
    return table


def legend(words: str) -> RenderableType:
    """How to read the table above, in dim letters, with an empty line below."""
    from rich.text import Text

    return Text(f"{words}\n", style="dim")
