"""The cliff: where retained accuracy falls below a half, by its whole interval; and the figures of planted sweeps."""

import json

import pytest

from eval.billing.cliff import Cliffs, cliff_of
from eval.billing.statistics import Interval
from eval.billing.sweep import SweepRecord
from eval.limits.cliff import find_cliffs
from prune.common.errors import UsageError
from tests.support.commands import check_refused, run, succeed
from tests.support.reports import write_sweep_folder


def kept(low, high):
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("retained", "cliff", "holds"),
    [
        ([(1, kept(0.8, 1.1)), (2, kept(0.6, 0.9)), (4, kept(0.3, 0.7)), (8, kept(-0.1, 0.2))], 8, 2),
        ([(1, kept(0.8, 1.1)), (2, kept(0.6, 0.9))], None, 2),
        ([(1, kept(0.2, 0.9)), (2, kept(0.1, 0.49))], 2, None),
        ([(1, kept(0.1, 0.5))], None, None),  # a half itself is not below
        ([(2, kept(0.0, 0.4)), (4, kept(0.6, 0.9))], 2, None),  # what rises again after it does not count
        ([(2, None), (4, kept(0.0, 0.4))], 4, None),
        ([(2, None), (4, None)], None, None),
        ([], None, None),
    ],
)
def test_the_cliff_is_the_first_size_whose_whole_interval_is_below_a_half(retained, cliff, holds):
    assert cliff_of(retained) == (cliff, holds)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """Planted sweeps of one model: by similarity, the deepest starts, and these on other questions."""
    folder = tmp_path_factory.mktemp("sweeps")
    tasks = (("medical", "choice"), ("math", "generation"))
    document = write_sweep_folder(folder / "similarity", rule="deepest", n=800, tasks=tasks)
    (folder / "similarity" / "sweep.json").write_text(json.dumps({**document, "starts": "best"}))
    write_sweep_folder(folder / "deepest", rule="deepest", n=800, tasks=tasks)
    write_sweep_folder(folder / "more", rule="deepest", sizes="0-4", n=60, tasks=(("math", "choice"),))
    return folder


def test_the_figures_of_two_ways_to_cut(sweeps, tmp_path):
    cliffs = find_cliffs([sweeps / name for name in ("similarity", "deepest", "more")], out=tmp_path / "out")
    assert Cliffs.read(tmp_path / "out" / "cliff.json") == cliffs
    assert [(line.domain, line.way, line.healed) for line in cliffs.lines] == [
        ("medical", "by similarity", False), ("medical", "deepest", False), ("math", "deepest", False),
    ]  # fmt: skip
    line = cliffs.lines[0]
    sweep = SweepRecord.read(sweeps / "similarity" / "sweep.json")
    rows = {row.size: row for row in sweep.rows if row.protocol == "choice"}
    assert [point.size for point in line.points] == sorted(rows)
    assert line.points[3].share == 3 / 30
    assert line.points[3].accuracy == rows[3].accuracy
    assert line.points[3].retained == rows[3].versus.retained_interval
    below = [size for size, row in rows.items() if size and row.versus.retained_interval.high < 0.5]
    assert line.cliff == min(below)
    figure = (tmp_path / "out" / "cliff.svg").read_text()
    for words in ("layers dropped, % of all", "accuracy, % of questions", 'class="chance"', "medical choice"):
        assert words in figure, words
    assert f"the cliff is at {line.cliff} of 30 layers" in (tmp_path / "out" / "cliff.md").read_text()


def healed(document, label, *, dropped):
    """The planted sweep with one more variant, which has an adapter."""
    more = {"label": label, "n": len(dropped), "start": dropped[0], "dropped": dropped, "adapter": label.split("+")[1]}
    own = next(v["label"] for v in document["variants"] if v["n"] == len(dropped))
    rows = [
        {**row, "variant": label, "start": dropped[0], "adapter": more["adapter"]}
        for row in document["rows"]
        if row["variant"] == own
    ]
    return {**document, "variants": [*document["variants"], more], "rows": [*document["rows"], *rows]}


def test_healed_cuts_are_a_line_only_of_the_cuts_beside_them(tmp_path):
    tasks = (("medical", "choice"),)
    planted = write_sweep_folder(tmp_path / "sweep", rule="deepest", sizes="2,4", n=60, tasks=tasks)

    def cliffs(document):
        (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(document))
        return find_cliffs([tmp_path / "sweep"], out=tmp_path / "out", overwrite=True)

    one = healed(planted, "4@25+a", dropped=[25, 26, 27, 28])
    assert [[point.size for point in line.points] for line in cliffs(one).lines] == [[0, 2, 4], [0, 4]]
    with pytest.raises(UsageError, match=r"4@25\+a and 4@25\+b, two of one size"):
        cliffs(healed(one, "4@25+b", dropped=[25, 26, 27, 28]))
    with pytest.raises(UsageError, match=r"4@20\+a, which drops other layers than 4@25"):
        cliffs(healed(planted, "4@20+a", dropped=[20, 21, 22, 23]))
    with pytest.raises(UsageError, match=r"4@25\+a, which drops other layers than 4@25"):
        cliffs(healed(planted, "4@25+a", dropped=[25, 26, 27, 22]))
    alone = {**one, "variants": [v for v in one["variants"] if v["label"] != "4@25"]}
    with pytest.raises(UsageError, match=r"4@25\+a without its cut alone; sweep with 4 in --sizes"):
        cliffs(alone)


def test_the_command_and_what_it_refuses(sweeps, tmp_path):
    words = (sweeps / "similarity", "--out", tmp_path / "out")
    assert json.loads(succeed("evaluate", "cliff", *words, "--json").stdout)["format"] == "regrowth.cliff/1"
    assert "the cliff is at" in " ".join(succeed("evaluate", "cliff", *words, "--overwrite").stdout.split())
    check_refused(run("evaluate", "cliff", *words), 1, "already exists")
    twice = run("evaluate", "cliff", sweeps / "deepest", sweeps / "deepest", "--out", tmp_path / "x")
    check_refused(twice, 2, "two of the sweeps hold medical choice, deepest")
    write_sweep_folder(tmp_path / "map", rule="all", sizes="0-2", n=60)
    check_refused(run("evaluate", "cliff", tmp_path / "map", "--out", tmp_path / "x"), 2, "several starts a size")
    other = write_sweep_folder(tmp_path / "other", rule="deepest", sizes="0-2", n=60)
    other["provenance"]["model"]["content_sha256"] = "f" * 64
    (tmp_path / "other" / "sweep.json").write_text(json.dumps(other))
    refused = run("evaluate", "cliff", sweeps / "deepest", tmp_path / "other", "--out", tmp_path / "x")
    check_refused(refused, 1, "a sweep of another model")
    assert not (tmp_path / "x").exists()
