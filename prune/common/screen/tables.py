"""One table, shown in three ways: on a terminal of any width, in Markdown, and on a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

_STYLES = {"strong": "bold", "faint": "dim"}  # looks of a row's first cell that a terminal shows


@dataclass(frozen=True)
class Column:
    """A heading, with its unit after a comma, and what it means.

    Columns of `words` are set to the left, and a narrow terminal breaks their cells between words. All others are set
    to the right, and never broken.
    """

    heading: str
    hint: str = ""
    words: bool = False

    @property
    def name(self) -> str:
        """The heading without its unit."""
        return self.heading.partition(",")[0]


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and a note beside it, such as an interval; a page sets the note below, in small letters.

    `brief` is the note where there is little room: all but the page take it. A page sorts by `sort`, or by the text if
    there is none, and gives the cell the class `look`.
    """

    text: str = ""
    note: str = ""
    sort: float | None = None
    look: str = ""
    brief: str = ""

    def __str__(self) -> str:
        note = self.brief or self.note
        return f"{self.text} {note if note.startswith('[') else f'({note})'}" if note else self.text


Field = tuple[Column, Callable[[Any], Cell]]  # a column, and how a record gives its cell


@dataclass(frozen=True)
class Table:
    """A table whose first column heads the rows.

    Neighbouring rows may agree in the first `shared` columns, as several models do that were asked the same questions.
    A terminal shows these cells once, on a line above their rows. `key` is the table's name on a page, which folds a
    long table away unless it is `open`.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    shared: int = 0
    key: str = ""
    open: bool = False

    @classmethod
    def of(
        cls,
        title: str,
        head: Sequence[str],
        rows: Iterable[Sequence[str | Cell]],
        *,
        words: Iterable[str] = (),
        caption: str = "",
    ) -> Table:
        """A table of plain cells; `words` are the headings of the columns of words."""
        texts = frozenset(words)
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        return cls(title, tuple(Column(name, words=name in texts) for name in head), cells, caption)

    @classmethod
    def from_records(
        cls, title: str, records: Iterable[Any], fields: Sequence[Field], *, shared: int = 0, key: str = "", **more: Any
    ) -> Table:
        """One row for each record. A column in which no record has anything is left out."""
        cells = [[cell(record) for _, cell in fields] for record in records]
        used = [number for number in range(len(fields)) if any(row[number].text for row in cells)]
        rows = tuple(tuple(row[number] for number in used) for row in cells)
        return cls(title, tuple(fields[number][0] for number in used), rows, shared=shared, key=key, **more)

    def pick(self, title: str, headings: Iterable[str]) -> Table:
        """These columns alone, and the rows that have more in them than words."""
        wanted = frozenset(headings)
        picked = [number for number, column in enumerate(self.columns) if column.heading in wanted]
        values = [number for number in picked if not self.columns[number].words and number >= self.shared]
        rows = tuple(
            tuple(row[number] for number in picked) for row in self.rows if any(row[number].text for number in values)
        )
        shared = sum(number < self.shared for number in picked)
        return replace(self, title=title, columns=tuple(self.columns[i] for i in picked), rows=rows, shared=shared)

    def legend(self) -> str:
        """How to read it: what each column means."""
        return " ".join(f"{column.name}: {column.hint}." for column in self.columns if column.hint)

    def markdown(self) -> list[str]:
        """Lines of Markdown, without the title; a `|` in a cell is escaped."""

        def line(cells: Iterable[object]) -> str:
            return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

        head = line(column.heading for column in self.columns)
        return [head, "|" + "---|" * len(self.columns), *map(line, self.rows)]

    def html(self) -> Markup:
        """The table in a box that scrolls, with what the page's script sorts by."""
        head = [
            _element("th", subscripts(c.heading), scope="col", class_="words" * c.words, title=c.hint)
            for c in self.columns
        ]
        table = _element(
            "table",
            _element("caption", self.title, id=f"{self.key}-caption"),
            _element("thead", _element("tr", *head)),
            _element("tbody", *(_element("tr", *self._html_cells(row)) + "\n" for row in self.rows)),
            id=f"{self.key}-table",
            class_="sortable" if len(self.rows) > 1 else "",
        )
        return _element(
            "div", table, class_="scroll", role="region", aria_labelledby=f"{self.key}-caption", tabindex="0"
        )

    def _html_cells(self, row: Sequence[Cell]) -> Iterator[Markup]:
        for number, (cell, column) in enumerate(zip(row, self.columns, strict=True)):
            yield _element(
                "td" if number else "th",
                cell.text,
                Markup(" ") + _element("small", cell.note) if cell.note else "",
                scope="" if number else "row",
                class_=f"{'words ' * column.words}{cell.look}".strip(),
                data_sort="" if cell.sort is None else f"{cell.sort:.7g}",
            )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shares = self.shared and len({row[0] for row in self.rows}) < len(self.rows)
        yield from (self._nested() if shares else self)._fitted(options.max_width)

    def _nested(self) -> Table:
        """What rows share on a line of its own, and below it the rows, headed by the first column that is theirs."""
        head = replace(self.columns[self.shared], words=True)
        columns = (head, *self.columns[1 : self.shared], *self.columns[self.shared + 1 :])
        rows: list[tuple[Cell, ...]] = []
        above = None
        for row in self.rows:
            shared, first, rest = row[: self.shared], row[self.shared], row[self.shared + 1 :]
            if row[0] != above:
                rows.append((*shared, *[Cell()] * len(rest)))
                above = row[0]
            rows.append((Cell(f"  {first}"), *[Cell()] * (self.shared - 1), *rest))
        return replace(self, columns=columns, rows=tuple(rows), shared=0)

    def _fitted(self, most: int) -> RenderResult:
        """As wide as the terminal at most, and no number broken.

        Where the columns do not fit side by side, headings break between words, then columns of words. Where that does
        not help, it is printed as several tables, each with the first column.
        """
        from rich.text import Text

        plain = [column.heading for column in self.columns]
        fits = [heads for heads in (plain, self._broken(plain)) if self._needs(range(len(plain)), heads, most) <= most]
        heads = fits[0] if fits else plain
        for number, columns in enumerate(self._groups(heads, most)):
            yield Text(self.title + " (continued)" * (number > 0), style="table.title")
            yield self._side_by_side(columns, heads, most)
        if self.caption:
            yield Text(f"{self.caption}\n", style="dim")

    def _broken(self, headings: Sequence[str]) -> list[str]:
        """The headings in lines that are no wider than the cells below, if their words are not."""
        cells = [max((_width(str(row[number])) for row in self.rows), default=1) for number in range(len(headings))]
        return [
            "\n".join(textwrap.wrap(heading, max(width, *map(_width, heading.split()), 1)))
            for heading, width in zip(headings, cells, strict=True)
        ]

    def _groups(self, heads: Sequence[str], most: int) -> list[list[int]]:
        """Columns by their numbers, as many side by side as fit."""
        groups = [[0]]
        for column in range(1, len(heads)):
            if len(groups[-1]) > 1 and self._needs([*groups[-1], column], heads, most) > most:
                groups.append([0])
            groups[-1].append(column)
        return groups

    def _needs(self, columns: Sequence[int], heads: Sequence[str], most: int) -> int:
        return sum(self._least(column, heads, most) for column in columns) + _frame(len(columns))

    def _texts(self, column: int, heads: Sequence[str]) -> list[str]:
        return [*heads[column].split("\n"), *(str(row[column]) for row in self.rows)]

    def _least(self, column: int, heads: Sequence[str], most: int) -> int:
        """The longest cell, or the longest word of a column of words that would take a quarter of the width or more."""
        texts = self._texts(column, heads)
        longest = max(map(_width, texts))
        if self.columns[column].words and longest > most // 4:
            return max(_indent(text) + _width(word) for text in texts for word in text.split() or [""])
        return longest

    def _side_by_side(self, columns: Sequence[int], heads: Sequence[str], most: int) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        widths = {column: self._least(column, heads, most) for column in columns}
        spare = max(0, most - _frame(len(columns)) - sum(widths.values()))
        for column in columns:  # what is left over goes to the columns of words, the first of them first
            more = min(spare, max(map(_width, self._texts(column, heads))) - widths[column])
            widths[column], spare = widths[column] + more, spare - more
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for column in columns:
            words = self.columns[column].words
            shown.add_column(
                Text(heads[column]),
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=not words,
                width=widths[column],
            )
        for row in self.rows:
            shown.add_row(*(Text(str(row[column])) for column in columns), style=_STYLES.get(row[0].look))
        return shown


def subscripts(text: str) -> Markup:
    """`A_fast` and `r_c` as a page sets them; the text is escaped."""
    return Markup(re.sub(r"\b([^\W_])_(\w+)", r"\1<sub>\2</sub>", str(escape(text))))


def _element(tag: str, *content: str, **attributes: str) -> Markup:
    """An HTML element. Text is escaped, and an empty attribute left out; `class_` stands for class."""
    named = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), value)
        for name, value in attributes.items()
        if value
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, named, Markup("").join(content))


def _frame(columns: int) -> int:
    """What stands beside and between so many columns, in characters."""
    return 2 + 2 * (columns - 1)


def _indent(cell: str) -> int:
    return len(cell) - len(cell.lstrip())


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
