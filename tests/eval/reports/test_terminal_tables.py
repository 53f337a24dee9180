"""Tables on a terminal: what a reader needs in one line stays in one line, at 80 columns as at 120."""

import io
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from eval.billing.rows.thinking import bill_thinking
from eval.billing.rows.unparsed import unparsed_warnings
from eval.comparison import bill_runs
from eval.questions.listing import domains_table, list_domains, manifest_table
from eval.questions.preparation import Manifest
from eval.reports.terminal import comparison_table, run_tables, smallest_losses, sweep_tables
from eval.reports.wording.tables import CHANGES, SHIFTS, domain_table, thinking_table
from heal.budget.plan import plan_budget
from heal.budget.table import tables as budget_tables
from heal.result import HealRecord, HealResult
from heal.settings import BudgetQuery
from heal.tables import curve, patched
from prune.common.screen.tables import Table
from tests.support.commands import succeed
from tests.support.healing import patch_record
from tests.support.reports import plan, run_result, sweep_document


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
    return [asdict(row) for row in bill_thinking(runs)]


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_keeps_intervals_and_headings_in_one_line(width):
    table = thinking_table(thinking_rows())
    lines = printed([table], width).splitlines()
    for row in table.rows:
        for cell in row[table.shared :]:
            assert any(str(cell) in line for line in lines), cell
    tables = sum("Fast and slow thinking" in line for line in lines)
    assert tables == (3 if width == 80 else 2)
    assert sum("math generation" in line for line in lines) == tables  # what all models share stands on its own line
    assert max(map(len, lines)) <= width


def test_lost_and_gained_stand_beside_the_change_of_accuracy_at_80_columns():
    plans = [plan("math", "generation", 40), plan("medical", "choice", 40)]
    runs = [run_result(label, damage, plans) for label, damage in (("full", 0.0), ("pruned", 1.0), ("healed", 0.5))]
    table = domain_table([asdict(row) for row in bill_runs(runs).rows])
    shown = printed([table.pick("Change against full", CHANGES)], 80)
    first, continued = shown.split("(continued)")
    assert all(word in first for word in ("Lost", "Gained", "accuracy"))
    assert "Kept, %" in continued


@pytest.mark.parametrize(("rule", "words"), [("all", "chosen on these very questions"), ("deepest", "deepest start")])
def test_a_sweep_says_how_its_starts_were_chosen(rule, words):
    document = sweep_document(layers=8, sizes="0-3", rule=rule, n=20, tasks=[("math", "choice")])
    shown = printed([sweep_tables(document)], 80)
    assert words in " ".join(shown.split())
    assert "below 30 an interval says little" in shown


def test_changes_of_answers_that_were_not_parsed_are_marked():
    rows = [{**row, "unparseable_fast": 0.1, "unparseable_slow": 0.0} for row in thinking_rows()]
    assert not any(str(cell).endswith("?") for row in thinking_table(rows).rows for cell in row)
    assert unparsed_warnings([], rows) == []
    pruned = rows[1]
    pruned["unparseable_slow"] = 0.5
    shifts = thinking_table(rows).pick("", SHIFTS).rows[-1][2:]
    assert [str(cell).endswith("?") for cell in shifts] == [False, True, True]  # A_fast can still be read
    (line,) = unparsed_warnings([], rows)
    assert line.startswith("pruned: many answers could not be parsed (math generation: 10 % fast, 50 % slow)")


def words_in(text):
    return re.findall(r"[^\W_]{2,}", text)


def healed():
    texts = ("encyclopedia", "medical", "mathematics", "jurisprudence")
    measured = [{"name": name, "source": name, "domain": False, "tokens": 9} for name in texts]
    document = patch_record([]).to_json() | {"held_out": {"tokens": 36, "texts": measured}, "seconds": 33.0}
    document |= {"tokens_per_second": 1234.5, "peak_memory": {"resident_bytes": 3 << 30}}
    document["ended"] = {"by": "text", "step": 1200, "kept_step": 1100, "texts": []}
    losses = {"loss": 3.1, "held_out_loss": 3.2, "texts": dict.fromkeys(texts, 3.1)}
    document["curve"] = [{"step": 1200, "tokens": 164_000_000, **losses}]
    return HealResult(Path("out"), HealRecord.parse(document, "heal.json"))


ALL_TABLES = {
    "compare": lambda comparison, *_: comparison_table(comparison),
    "run": lambda comparison, *_: run_tables({**comparison, "model": comparison["models"][0]}),
    "sweep": lambda _, swept, __: sweep_tables(swept),
    "domains": lambda *_: domains_table(list_domains()),
    "domains of a folder": lambda _, __, sample: domains_table(list_domains(sample / "questions")),
    "prepare": lambda _, __, sample: manifest_table(Manifest.read(sample / "questions" / "manifest.json")),
    "healing": lambda *_: curve(healed()),
    "patch": lambda *_: patched(healed()),
    "budget": lambda _, __, sample: budget_tables(plan_budget(sample / "model", BudgetQuery(n=6, method="distill"))),
}


@pytest.mark.parametrize("name", ALL_TABLES)
def test_no_word_is_broken_at_80_columns(name, comparison, swept, sample_model):
    """What a wide terminal shows in words and numbers, a narrow one shows in the same words and numbers."""
    table = ALL_TABLES[name](comparison, swept, sample_model.parent)
    wide, narrow = (printed([table], width) for width in (400, 80))
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert set(words_in(narrow)) - {"continued"} == set(words_in(wide))


@pytest.mark.parametrize("words", [["list"], ["show", "demo"], ["run", "demo", "--dry-run"]])
def test_recipes_break_no_word_at_80_columns(words, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 << 30))  # what is free moves meanwhile
    monkeypatch.setattr("prune.common.machine.memory._free", lambda: 16 << 30)
    shown = []
    for width in ("400", "80"):
        monkeypatch.setenv("COLUMNS", width)
        shown.append(set(words_in(succeed("recipe", *words).stdout)))
    assert shown[0] == shown[1]


def test_a_table_that_does_not_fit_is_split_and_repeats_its_first_column():
    head = ("model", *(f"a long heading {i}" for i in range(8)))
    rows = [["  a model of a long name", *(f"{i}.00 [{i}.00, {i}.00]" for i in range(8))]]
    shown = printed([Table.of("Many", head, rows, words=["model"])], 80)
    assert all(cell in shown for cell in rows[0][1:])
    assert shown.count("name") == shown.count("Many") > 1
    assert shown.count("(continued)") == shown.count("Many") - 1


def test_the_smallest_loss_that_could_have_shown_is_said(comparison, planted):
    told = smallest_losses(comparison["rows"])
    changes = [row["versus"]["accuracy_difference"] for row in comparison["rows"][-2:]]  # of math generation
    widest = max(100 * (change["high"] - change["estimate"]) for change in changes)
    assert f"math generation {widest:.0f}" in told
    assert told in (planted / "bill" / "comparison.md").read_text()
    assert told in " ".join(printed([comparison_table(comparison)], 80).split())
    assert smallest_losses([]) == ""


def test_one_table_holds_the_same_in_markdown_and_on_a_page():
    table = Table.of("Title", ("name", "A_fast, %"), [("a | b", "1"), ("<i>", "2")], words=["name"])
    assert table.markdown()[2:] == ["| a \\| b | 1 |", "| <i> | 2 |"]
    page = table.html()
    assert "A<sub>fast</sub>, %" in page
    assert "&lt;i&gt;" in page
    assert 'class="sortable"' in page
