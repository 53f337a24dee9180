"""What follows from a token budget where it is not given."""

import runpy
from itertools import pairwise
from pathlib import Path

import pytest

from heal.defaults import LADDER, Step, left_open, measured_tokens, settle
from heal.settings import DistillSettings, Settings
from heal.training.schedule import plan_steps, schedule_line
from prune.common.sizes import parse_tokens

PAPER = 5000 * 16 * 2048
BUDGETS = [int(1000 * 1.17**power) for power in range(100)]  # 1k to 5.6G


def steps_of(settings, tokens, processes=1):
    return plan_steps(tokens, settle(settings, tokens=tokens, processes=processes), processes=processes)


def test_larger_budgets_take_no_smaller_steps_and_no_higher_rates():
    assert [one.tokens for one in LADDER] == sorted(one.tokens for one in LADDER)
    for few, many in pairwise(steps_of(Settings(), tokens) for tokens in BUDGETS):
        assert few.length <= many.length
        assert few.rows_per_step <= many.rows_per_step
        assert few.learning_rate >= many.learning_rate
        assert few.tokens <= many.tokens


def test_some_two_hundred_steps_where_the_budget_allows():
    for tokens in BUDGETS:
        schedule = steps_of(Settings(), tokens)
        assert schedule.steps >= min(195, tokens // 256)
        assert schedule.steps <= max(6200, tokens // (16 * 2048))  # beyond the paper's budget, its steps
        assert tokens - schedule.tokens < schedule.tokens_per_step


def test_the_papers_budget_has_the_papers_steps():
    schedule = steps_of(Settings(), PAPER)
    assert (schedule.steps, schedule.rows_per_step, schedule.length, schedule.warmup) == (5000, 16, 2048, 100)
    assert schedule.learning_rate == 3e-4
    assert schedule.batch_size * schedule.length == 2048  # a pass takes no more memory than one of small rows


def test_a_small_budget_measures_fewer_held_out_tokens():
    assert [measured_tokens(tokens) for tokens in (1000, 20_000, 60_000, 160_000, PAPER)] == [
        2000, 2000, 6000, 16_000, 16_000,
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [1000, 60_000, 2_000_000, PAPER])
def test_what_is_given_stays(tokens):
    given = {"length": 96, "batch_size": 3, "accumulate": 5, "learning_rate": 7e-3}
    for name, value in given.items():
        assert getattr(settle(Settings(**{name: value}), tokens=tokens), name) == value
    settings = Settings(**given, rank=3, warmup="2")
    assert settle(settings, tokens=tokens) == Step(**given)
    assert left_open(settings) == ()
    assert left_open(Settings(length=96)) == ("batch_size", "accumulate", "learning_rate", "warmup")


def test_the_rest_goes_with_what_is_given():
    longer = settle(Settings(length=2048), tokens=2_000_000)
    assert (longer.batch_size, longer.accumulate) == (1, 1)
    shorter = settle(Settings(length=128), tokens=2_000_000)
    assert shorter.batch_size * shorter.accumulate * 128 == 2048
    assert settle(Settings(batch_size=2), tokens=PAPER).accumulate == 8
    assert settle(Settings(accumulate=2), tokens=2_000_000).batch_size == 2
    assert settle(Settings(accumulate=64), tokens=60_000).batch_size == 1


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8, 64])
def test_processes_share_the_rows_of_a_step(processes):
    for tokens in (one for one in BUDGETS if one > processes * 256):
        alone, together = (steps_of(Settings(), tokens, one).rows_per_step for one in (1, processes))
        assert together <= max(alone, processes)
    assert steps_of(Settings(), PAPER, 4).rows_per_step == 16


def test_no_row_is_longer_than_what_the_model_reads():
    found = settle(Settings(), tokens=PAPER, longest=1024)
    assert (found.length, found.batch_size * found.accumulate) == (1024, 32)  # the tokens of a step stay
    assert settle(Settings(length=4096), tokens=PAPER, longest=1024).length == 4096  # refused by `check_length`


def test_the_table_of_the_docs_is_the_rule():
    page = (Path(__file__).parents[3] / "docs" / "healing.md").read_text()
    lines = page.partition("| `--tokens` from |")[2].splitlines()[2 : 2 + len(LADDER)]
    for one, after, line in zip(LADDER, [*LADDER[1:], None], lines, strict=True):
        step = one.rows * one.length
        begin, last = max(one.tokens, step), None if after is None else after.tokens - 1
        steps = f"{begin // step:,} " + ("and more" if last is None else f"to {last // step:,}")
        found = [cell.strip() for cell in line.strip("|").split("|")]
        assert parse_tokens(found[0]) == begin
        assert found[1:5] == [str(one.rows), str(one.length), f"{step:,}", steps]
        assert float(found[5]) == one.learning_rate


def test_the_cells_of_the_bench_are_settings():
    bench = runpy.run_path(str(Path(__file__).parents[3] / "bench" / "heal_defaults.py"))
    for cell in bench["GRID"]:
        way, words = bench["options_of"](cell)
        shape = cell.removeprefix(f"{way}-").split("-")[0]
        given = dict(zip(words[::2], words[1::2], strict=True))
        rows = int(given["--batch-size"]) * int(given["--accumulate"])
        assert f"{rows}x{given['--length']}" == shape
        assert cell.endswith(given["--targets"])
    assert all(bench["options_of"](cell)[1] == [] for cell in bench["DEFAULTS"])
    for wrong in ("lora-1x256-1e-3-all", "qlora-256-1e-3-all", "qlora-1x256-all"):
        with pytest.raises(SystemExit, match=f"--cells {wrong}"):
            bench["options_of"](wrong)


def test_sixty_thousand_tokens_are_many_small_steps_told_in_one_line():
    schedule = steps_of(DistillSettings(), 60_000)
    given = {"free_memory": None, "checkpointing": True}
    line = "234 steps of 1 row of 256 tokens; rate 0.001, reached after 7 steps"
    assert (schedule.rows_per_step, schedule.warmup) == (1, 7)
    assert schedule_line(schedule, (), **given) == line
    assert schedule_line(schedule, ("warmup",), **given) == f"{line} (--warmup follows from --tokens)"
    named = schedule_line(schedule, ("length", "batch_size", "warmup"), **given)
    assert named == f"{line} (--length, --batch-size and --warmup follow from --tokens)"
    chosen = schedule_line(schedule, (), free_memory=21 << 30, checkpointing=False)
    assert chosen == f"{line}; 1 row a pass, without checkpointing, in 21.0 GiB"
    alone = schedule_line(plan_steps(64, Step(64, 1, 1, 1e-3)), (), **given)
    assert alone == "1 step of 1 row of 64 tokens; rate 0.001, reached after 0 steps"
    together = plan_steps(2048, Step(64, 2, 1, 1e-3), processes=2)
    assert schedule_line(together, (), **given).startswith("8 steps of 4 rows of 64 tokens, 2 processes together; rate")
