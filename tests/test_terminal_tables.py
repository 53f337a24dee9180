"""Tables on a terminal: what a reader needs in one line stays in one line, at 80 columns as at 120."""

import io

import pytest
from report_documents import plan, run_result, sweep_document
from rich.console import Console

from eval.sweeps.tables import sweep_tables
from eval.thinking.bill import bill_thinking
from eval.thinking.tables import change_cells, thinking_cells, thinking_tables
from eval.unparsed import unparsed_warnings


def printed(tables, width):
    """What a terminal of that many columns shows."""
    stream = io.StringIO()
    console = Console(width=width, file=stream, highlight=False)
    for table in tables:
        console.print(table)
    return stream.getvalue()


def thinking_rows():
    plans = [plan("math", "generation", 40, mode) for mode in ("fast", "slow")]
    runs = [run_result(label, damage, plans) for label, damage in (("full", 0.0), ("pruned", 1.0))]
    return [row.as_document() for row in bill_thinking(runs)]


@pytest.mark.parametrize("width", [80, 120])
def test_thinking_tables_keep_intervals_and_headings_in_one_line(width):
    rows = thinking_rows()
    shown = printed(thinking_tables(rows), width)
    tables, legend = shown.split("A_fast, A_slow: right")
    lines = tables.splitlines()
    for row in rows:
        for cell in [*thinking_cells(row), *change_cells(row)]:
            assert any(cell in line for line in lines), cell
    assert sum("math generation" in line for line in lines) == 3  # of each table
    assert max(map(len, lines)) <= width
    assert legend.endswith("\n\n")  # the next table does not stick to the legend


@pytest.mark.parametrize(("rule", "words"), [("all", "chosen on these very questions"), ("deepest", "deepest start")])
def test_a_sweep_says_how_its_starts_were_chosen(rule, words):
    document = sweep_document(layers=8, sizes="0-3", rule=rule, n=20, tasks=[("math", "choice")])
    document["how"] |= {"tokens": 10, "tokens_one_by_one": 20}
    shown = printed([sweep_tables(document)], 80)
    assert words in " ".join(shown.split())
    assert "below 30 an interval says little" in shown


def test_changes_of_answers_that_were_not_parsed_are_marked():
    rows = [{**row, "unparseable_fast": 0.1, "unparseable_slow": 0.0} for row in thinking_rows()]
    assert not any(cell.endswith("?") for row in rows for cell in [*thinking_cells(row), *change_cells(row)])
    assert unparsed_warnings([], rows) == []
    pruned = rows[1]
    pruned["unparseable_slow"] = 0.5
    assert [cell.endswith("?") for cell in change_cells(pruned)] == [False, True, True]  # A_fast can still be read
    (line,) = unparsed_warnings([], rows)
    assert line.startswith("pruned: many answers could not be parsed (math generation: 10 % fast, 50 % slow)")
