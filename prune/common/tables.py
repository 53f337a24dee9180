"""Tables: for a terminal of any width, where numbers never break, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table


@dataclass(frozen=True)
class FittedTable:
    """A table of plain cells that is as wide as the terminal at most, and in which no word is broken.

    Where its columns do not fit side by side, headings break between words; where that does not help, it is printed
    as several tables, each with the first column.

    head: names of the columns. rows: their cells. words: columns whose cells may break between words, set to the left.
    caption: words below the table.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[str]
    caption: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        every, most = list(range(len(self.head))), options.max_width
        broken = [head.replace(" ", "\n") for head in self.head]
        heads = broken if self._needs(every, broken) <= most < self._needs(every, self.head) else self.head
        for number, columns in enumerate(self._groups(heads, most)):
            yield Text(self.title + " (continued)" * (number > 0), style="table.title")
            yield self._table(columns, heads, most)
        if self.caption:
            yield Text(f"{self.caption}\n", style="dim")

    def _groups(self, heads: Sequence[str], most: int) -> list[list[int]]:
        """Columns by their numbers, as many side by side as fit."""
        groups = [[0]]
        for column in range(1, len(heads)):
            if len(groups[-1]) > 1 and self._needs([*groups[-1], column], heads) > most:
                groups.append([0])
            groups[-1].append(column)
        return groups

    def _needs(self, columns: Sequence[int], heads: Sequence[str]) -> int:
        return sum(self._least(column, heads) for column in columns) + _frame(len(columns))

    def _cells(self, column: int, heads: Sequence[str]) -> list[str]:
        return [*heads[column].split("\n"), *(row[column] for row in self.rows)]

    def _least(self, column: int, heads: Sequence[str]) -> int:
        """The longest word of a column of words, or else its longest cell."""
        cells = self._cells(column, heads)
        if self.head[column] in self.words:
            cells = [" " * _indent(cell) + word for cell in cells for word in cell.split()] or [""]
        return max(map(_width, cells))

    def _table(self, columns: Sequence[int], heads: Sequence[str], most: int) -> Table:
        from rich import box
        from rich.table import Table

        widths = {column: self._least(column, heads) for column in columns}
        spare = max(0, most - _frame(len(columns)) - sum(widths.values()))
        for column in columns:  # what is left over goes to the columns of words, the first of them first
            more = min(spare, max(map(_width, self._cells(column, heads))) - widths[column])
            widths[column], spare = widths[column] + more, spare - more
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in columns:
            name = self.head[column]
            side: Literal["left", "right"] = "left" if name in self.words else "right"
            table.add_column(
                heads[column], justify=side, overflow="fold", no_wrap=name not in self.words, width=widths[column]
            )
        for row in self.rows:
            table.add_row(*(row[column] for column in columns))
        return table


def _frame(columns: int) -> int:
    """What stands beside and between so many columns, in characters."""
    return 2 + 2 * (columns - 1)


def _indent(cell: str) -> int:
    return len(cell) - len(cell.lstrip())


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; a `|` in a cell is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]
