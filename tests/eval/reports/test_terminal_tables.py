"""Tables on a terminal: what a reader needs in one line stays in one line, at 80 columns as at 120."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from eval.billing.bill import row_from
from eval.billing.thinking import bill_thinking
from eval.billing.unparsed import unparsed_warnings
from eval.questions.listing import domains_table, list_domains, manifest_table
from eval.reports.sweep_terminal import sweep_tables
from eval.reports.terminal import comparison_table, run_tables, smallest_losses
from eval.reports.thinking_terminal import change_cells, thinking_cells, thinking_tables
from heal import BudgetQuery, plan_budget
from heal.budget.table import tables as budget_tables
from heal.result import HealRecord, HealResult
from heal.tables import curve, patched
from prune.common.tables import FittedTable
from recipes.cli import app as recipes
from tests.support.reports import plan, run_result, sweep_document, write_bill


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


def words_in(text):
    return re.findall(r"[^\W_]{2,}", text)


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    """A folder with a bill of three models."""
    folder = tmp_path_factory.mktemp("bill") / "bill"
    write_bill(folder, n=60)
    return folder


def bill_document(folder):
    return json.loads((folder / "comparison.json").read_text())


def healed():
    texts = ("encyclopedia", "medical", "mathematics", "jurisprudence")
    measured = [{"name": name, "source": name, "domain": False, "tokens": 9} for name in texts]
    document = {
        "format": "regrowth.heal/2",
        "method": "patch",
        "settings": {},
        "base": {},
        "provenance": {},
        "held_out_loss": {"before": 4.1, "after": 3.2, "full": 3.0},
        "won_back": 0.5,
        "seconds": 33.0,
        "peak_memory": {"resident_bytes": 3 << 30, "cuda_bytes": 8 << 30},
        "tokens": 164_000_000,
        "tokens_per_second": 1234.5,
        "ended": {"by": "text", "step": 1200, "kept_step": 1100, "texts": []},
        "held_out": {"tokens": 36, "texts": measured},
        "curve": [
            {
                "step": 1200,
                "tokens": 164_000_000,
                "loss": 3.1,
                "held_out_loss": 3.2,
                "texts": dict.fromkeys(texts, 3.1),
            }
        ],
        "folds": [{**FOLD, "loss_without": 4.1, "candidates": [TRIED], "chosen": TRIED}],
    }
    return HealResult(Path("out"), HealRecord.parse(document, "heal.json"))


TRIED = {"layer": 13, "kind": "matrix", "objective": "magnitudes", "ridge": 1e-4, "share": 1e-3, "loss": 3.2}
TRIED["left_over"] = 0.4
FOLD = {"layer": 13, "target": 20, "module": "mlp.down_proj", "scale": 1.0, "bias": False, "tensors": []}


def sweep_tables_of_three_tasks(_bill, _sample):
    document = sweep_document(layers=8, sizes="0-3", n=40)
    document["how"] |= {"tokens": 10, "tokens_one_by_one": 20}
    return sweep_tables(document)


def one_run(bill, _sample):
    document = bill_document(bill)
    rows = [row for row in document["rows"] if row["versus"] is None]
    return run_tables({**document, "rows": rows, "settings": document["models"][0]["settings"]})


ALL_TABLES = {
    "compare": lambda bill, _: comparison_table(bill_document(bill)),
    "run": one_run,
    "sweep": sweep_tables_of_three_tasks,
    "domains": lambda *_: domains_table(list_domains()),
    "domains of a folder": lambda _, sample: domains_table(list_domains(sample / "questions")),
    "prepare": lambda _, sample: manifest_table(json.loads((sample / "questions" / "manifest.json").read_text())),
    "healing": lambda *_: curve(healed()),
    "patch": lambda *_: patched(healed()),
    "budget": lambda _, sample: budget_tables(plan_budget(str(sample / "model"), BudgetQuery(n=6, method="distill"))),
}


@pytest.mark.parametrize("name", ALL_TABLES)
def test_no_word_is_broken_at_80_columns(name, bill, sample_model):
    """What a wide terminal shows in words and numbers, a narrow one shows in the same words and numbers."""
    table = ALL_TABLES[name](bill, sample_model.parent)
    wide, narrow = (printed([table], width) for width in (400, 80))
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert set(words_in(narrow)) - {"continued"} == set(words_in(wide))


@pytest.mark.parametrize("words", [["list"], ["show", "demo"], ["run", "demo", "--dry-run"]])
def test_recipes_break_no_word_at_80_columns(words, monkeypatch):
    from typer.testing import CliRunner

    shown = []
    for width in ("400", "80"):
        monkeypatch.setenv("COLUMNS", width)
        shown.append(set(words_in(CliRunner().invoke(recipes, words).stdout)))
    assert shown[0] == shown[1]


def test_a_table_that_does_not_fit_is_split_and_repeats_its_first_column():
    head = ("model", *(f"a long heading {i}" for i in range(8)))
    rows = [["  a model of a long name", *(f"{i}.00 [{i}.00, {i}.00]" for i in range(8))]]
    shown = printed([FittedTable("Many", head, rows, words=frozenset({"model"}))], 80)
    assert all(cell in shown for cell in rows[0][1:])
    assert shown.count("name") == shown.count("Many") > 1
    assert shown.count("(continued)") == shown.count("Many") - 1


def test_the_smallest_loss_that_could_have_shown_is_said(bill):
    document = bill_document(bill)
    told = smallest_losses([row_from(raw) for raw in document["rows"]])
    found = re.search(r"math generation (\d+)", told)
    widths = [
        100 * (raw["versus"]["accuracy_difference"]["high"] - raw["versus"]["accuracy_difference"]["estimate"])
        for raw in document["rows"]
        if raw["versus"] and (raw["domain"], raw["protocol"]) == ("math", "generation")
    ]
    assert int(found[1]) == round(max(widths))
    assert told in (bill / "comparison.md").read_text()
    assert told in " ".join(printed([comparison_table(document)], 80).split())
    assert smallest_losses([]) == ""
