"""Needle recall in the bill: the trials and answers of `prune heads`, a planted loss, and what is not paired."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.asking.harness import Scorer
from eval.billing.document import read_run, write_run
from eval.billing.rows.needles import bill_needles, needle_warnings
from eval.comparison import bill_runs, compare, write_comparison
from eval.reports.terminal import comparison_table
from eval.runs.needles import draw_needles, measure_needles
from eval.settings import Settings
from prune.checkpoint.source import locate
from prune.common.errors import RegrowthError, UsageError
from prune.common.screen.terminal import Progress
from prune.instruments.ablation import ablated
from prune.instruments.attention import find_sites
from prune.instruments.heads import heads
from prune.instruments.settings import HeadsSettings
from tests.support.commands import check_refused
from tests.support.commands import run as run_command
from tests.support.copying_model import COPIES, TEXT, save_copying_model
from tests.support.models import save_tiny
from tests.support.reports import plan, run_result


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    return save_copying_model(tmp_path_factory.mktemp("copying"))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join([TEXT] * 3))
    return str(path)


@pytest.fixture(scope="module")
def settings(text):
    asked = {"needles": True, "needle_text": text, "needle_lengths": "100,120", "needle_depths": 1, "needle_count": 12}
    return Settings.of(**asked)


@pytest.fixture(scope="module")
def measured(copying, settings):
    """Of the copying model, and of the same without the head that copies."""
    tokenizer = AutoTokenizer.from_pretrained(copying)
    drawn = draw_needles(settings, tokenizer, locate(copying), chat=True)
    model = AutoModelForCausalLM.from_pretrained(copying)
    scorer = Scorer(model, tokenizer, batch_size=3, max_length=512, bar=Progress())
    full = measure_needles(drawn, scorer.written, 3)
    with ablated(find_sites(model), [COPIES]):
        return full, measure_needles(drawn, scorer.written, 3)


def _runs(measured, **changes):
    full, without = measured
    tasks = [plan("math", "choice", 4)]
    return [
        replace(run_result("full", 0.0, tasks), needles=full),
        replace(run_result("pruned", 1.0, tasks), needles=without.model_copy(update=changes)),
    ]


def test_trials_and_answers_are_those_of_prune_heads(copying, text, measured):
    asked = HeadsSettings(lengths=(100, 120), depths=1, needles=12, top=(), device="cpu")
    assert measured[0].trials == heads(copying, text, settings=asked, show_progress=False).trials
    assert measured[0].known == ()


def test_a_planted_loss_is_billed(measured):
    rows = bill_needles(_runs(measured))
    assert [(row.model, row.length, row.needles, row.trials) for row in rows] == [
        (label, length, 12, trials)
        for length, trials in ((None, 24), (100, 12), (120, 12))
        for label in ("full", "pruned")
    ]
    full, pruned = rows[:2]
    shares = [trial.recall for trial in measured[0].trials]
    assert full.recall.estimate == pytest.approx(np.mean(shares))
    assert full.recall.estimate > 0.4
    assert full.answered.estimate == np.mean([share > 0.5 for share in shares])
    assert full.recall_difference is None
    assert pruned.recall.estimate < 0.1
    assert pruned.recall_difference.estimate == pytest.approx(pruned.recall.estimate - full.recall.estimate)
    assert pruned.recall_difference.high < 0
    assert -1 <= pruned.answered_difference.low < pruned.answered_difference.high < 0
    assert needle_warnings(_runs(measured)) == []


def test_needles_that_a_model_knows_do_not_count(measured):
    runs = _runs(measured, known=(0, 3))
    assert {row.trials for row in bill_needles(runs) if row.length is None} == {20}
    assert needle_warnings(runs) == ["2 of 12 needles are left out: a model answers them without any text"]
    runs = _runs(measured, known=tuple(range(11)))
    assert bill_needles(runs) == []
    assert "needle recall is not billed: an interval needs two needles at least" in needle_warnings(runs)
    (little,) = needle_warnings(_runs(measured)[::-1])
    assert little == "pruned answers 0 % of the needle trials, so that there is little recall to lose"


def test_what_is_not_paired_is_refused(measured):
    with pytest.raises(RegrowthError, match="not paired: pruned is asked for other needles than full"):
        bill_needles(_runs(measured, sha256="0"))
    full, pruned = _runs(measured)
    with pytest.raises(RegrowthError, match="not paired: full is asked for needles, and pruned is not"):
        bill_needles([full, replace(pruned, needles=None)])
    assert bill_needles([replace(full, needles=None), replace(pruned, needles=None)]) == []


def test_it_is_a_line_of_the_bill(measured, tmp_path):
    from rich.console import Console

    runs = _runs(measured)
    comparison = bill_runs(runs)
    write_comparison(comparison, runs, tmp_path / "bill")
    lines = (tmp_path / "bill/comparison.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("| all lengths | 24 | 12 | pruned |")]
    assert f"{100 * comparison.needles[1].recall_difference.estimate:.1f}".replace("-", "−") in line
    page = (tmp_path / "bill/report.html").read_text()
    assert "Needle recall" in page
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(comparison.to_json()))
    assert "120 tokens" in console.export_text()
    write_run(runs[0], tmp_path / "run")
    assert read_run(tmp_path / "run").needles == runs[0].needles


def test_models_are_asked_and_answers_are_kept(tiny_llama, sample_questions, sample_heldout, tmp_path):
    asked = {"data": sample_questions, "domains": "math", "limit": 2, "sets": ["asdiv"], "chat_template": "off"}
    asked |= {"needles": True, "text": str(sample_heldout), "needle_lengths": (180,), "needle_depths": 1}
    asked |= {"needle_count": 3, "cache": tmp_path / "kept", "show_progress": False}
    bill = compare(
        tiny_llama, [tiny_llama], out=tmp_path / "bill", **{**asked, "text": None, "needle_text": asked["text"]}
    )
    full, same = bill.needles
    assert (full.trials, full.needles, full.recall.estimate) == (3, 3, 0)  # a random model brings nothing back
    assert same.recall_difference.estimate == 0
    (noise,) = bill.noise.needles  # asked again, past the kept answers
    assert (noise.n, noise.of, noise.recall.shift.estimate) == (3, 3, 0)
    assert set(same.noise) == {"recall_difference", "answered_difference"}
    assert [(effort.asked, effort.known) for effort in bill.measured] == [(2 * 2 + 3 + 3, 0), (0, 2 * 2 + 3 + 3)]
    assert bill.models[0].settings["needles"]["lengths"] == [180]
    write_run(run_result("run", 0.0, []), tmp_path / "run")
    with pytest.raises(RegrowthError, match="not paired: llama is asked for needles, and run is not"):
        compare(tmp_path / "run", [tiny_llama], out=tmp_path / "out", **asked)


def test_recurrent_layers_without_heads_are_asked_all_the_same(sample_model, settings, sample_heldout, tmp_path):
    folder = save_tiny(tmp_path / "mamba", sample_model, "mamba", layers=2, max_position_embeddings=512)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = replace(settings, needle_text=str(sample_heldout), needle_lengths=(180,), needle_depths=1, needle_count=2)
    drawn = draw_needles(asked, tokenizer, locate(folder), chat=False)
    scorer = Scorer(
        AutoModelForCausalLM.from_pretrained(folder), tokenizer, batch_size=2, max_length=512, bar=Progress()
    )
    assert len(measure_needles(drawn, scorer.written, 2).trials) == 2


def test_bad_input_is_one_clear_line(copying, tiny_llama, settings, sample_questions, tmp_path):
    def draw(**changes):
        return draw_needles(
            replace(settings, **changes), AutoTokenizer.from_pretrained(copying), locate(copying), chat=True
        )

    with pytest.raises(UsageError, match="--needle-lengths 490: the model takes 512 tokens, 32 of them for the answer"):
        draw(needle_lengths=(490,))
    with pytest.raises(UsageError, match="--needle-lengths 40: needle and question take"):
        draw(needle_lengths=(40,))
    for name, value in (("text", "a.txt"), ("lengths", "100"), ("depths", 1), ("count", 2)):
        with pytest.raises(UsageError, match=f"^--needle-{name} goes with --needles$"):
            Settings.of(**{f"needle_{name}": value})
    short = tmp_path / "short.txt"
    short.write_text("A short text. That is all.")
    with pytest.raises(RegrowthError, match="too short for a haystack .* lower --needle-lengths"):
        draw(needle_text=str(short))
    command = ["evaluate", "run", tiny_llama, "--data", sample_questions, "--domains", "math", "--needles"]
    check_refused(run_command(*command), 2, "add --needle-text or --text")
    command += ["--needle-text", short]
    check_refused(run_command(*command, "--backend", "vllm"), 2, "--needles are asked through transformers")
    check_refused(run_command(*command, "--needle-lengths", "none"), 2, "--needle-lengths: give one length")
    check_refused(run_command(*command, "--needle-lengths", "x"), 2, "--needle-lengths 'x': use whole numbers")
    check_refused(run_command(*command, "--needle-count", 1), 2, "--needle-count 1: use 2 to 24")
    check_refused(run_command(*command, "--needle-depths", 0), 2, "--needle-depths 0: use 1 or more")
    check_refused(run_command(*command, "--needle-lengths", 4000), 2, "--needle-lengths 4000: the model takes 512")
