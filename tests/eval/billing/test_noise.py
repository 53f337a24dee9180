"""The noise floor: what it is of planted answers, what a lossless change is called, and a copy of a real model."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest

from eval.asking.trees import batch_tokens
from eval.billing.document import write_run
from eval.billing.judging.policy import at_most
from eval.billing.noise import Floor, band, is_noise, measure_noise
from eval.billing.statistics import Interval, paired_mean_difference
from eval.comparison import _ask_again, bill_runs, compare
from eval.reports.sections.noise import noise_line, nothing_lost
from eval.reports.wording.text import worst_loss
from eval.runs.again import Again, other_size, second_settings
from eval.runs.prose import Prose, ScoredWindow
from eval.runs.samples import RunResult
from eval.settings import ComparisonSettings
from prune.common.errors import RegrowthError, UsageError
from tests.support.questions import plan_of, sample_of

SETTINGS = {"dtype": "float32", "device": "cpu", "batch_size": 16, "seed": 0, "backend": "hf"}


def run_of(label, right, nll, *, prose=3.0, **settings):
    """A run of made-up answers to 200 questions or fewer, one of which is right per True."""
    names = [f"q{i}" for i in range(len(right))]
    plan = plan_of(names, choices=list("abcd"), answer=0)
    answers = zip(names, right, nll, strict=True)
    samples = tuple(sample_of(name, bool(correct), answer_nll_bits=float(bits)) for name, correct, bits in answers)
    windows = tuple(ScoredWindow(prose * 100 + i, 100, 400) for i in range(32 if label == "again" else 64))
    texts = {"wiki": Prose(windows, label)} if label == "again" else {"wiki": Prose(windows, "all")}
    return RunResult(
        label, {"model": label}, (plan,), samples, {"results": {}}, texts, {**SETTINGS, **settings}, 1.0, 1, 0
    )


def planted(seed=0, *, scatter=0.05, flips=2, n=200, again=100):
    """The full model, the same asked again on half of the questions, and a cut one that lost 20 of 200."""
    rng = np.random.default_rng(seed)
    right, nll = np.arange(n) < 120, rng.gamma(4, 2, n)
    moved = right[:again].copy()
    moved[:flips] = False
    full = run_of("full", right, nll)
    second = run_of("again", moved, nll[:again] + rng.normal(0, scatter, again), batch_size=8, dtype="bfloat16")
    lost = right & (np.arange(n) >= 20)
    return full, second, run_of("cut", lost, nll + rng.normal(0.5, 0.5, n), prose=3.5)


def test_the_band_is_the_shift_and_the_arm_over_all_questions():
    assert band(Interval(0.01, -0.01, 0.03), 100, 100) == pytest.approx(0.03)
    assert band(Interval(-0.01, -0.03, 0.01), 100, 400) == pytest.approx(0.01 + 0.02 / 2)
    assert band(Interval(0.0, 0.0, 0.0), 100, 400) == 0


@pytest.mark.parametrize(
    ("change", "noise"),
    [
        ((0.01, -0.05, 0.07), True),  # within the band, and perhaps nothing
        ((0.015, 0.01, 0.02), True),  # something for certain, and all of it within the band
        ((0.018, 0.001, 0.035), True),  # perhaps no more than the shift that was seen
        ((0.018, 0.01, 0.026), False),  # more than that for certain, and perhaps more than the band
        ((0.03, -0.05, 0.11), False),
        ((0.0, 0.0, 0.0), True),
        ((-0.01, -0.07, 0.05), True),
    ],
)
def test_what_is_called_noise(change, noise):
    assert is_noise(Interval(*change), Floor(Interval(-0.005, -0.02, 0.01), 0.02)) is noise


def test_the_floor_of_planted_answers():
    full, again, _ = planted()
    noise = measure_noise(full, again)
    (row,) = noise.rows
    assert (row.n, row.of, row.lost, row.gained) == (100, 200, 2, 0)
    assert row.flips.estimate == 0.02
    assert row.accuracy.shift.estimate == pytest.approx(-0.02)
    arm = row.accuracy.shift.high - row.accuracy.shift.estimate, row.accuracy.shift.estimate - row.accuracy.shift.low
    assert row.accuracy.band == pytest.approx(0.02 + max(arm) * np.sqrt(0.5))
    before, after = ([s.answer_nll_bits for s in r.samples[:100]] for r in (full, again))
    shift = paired_mean_difference(before, after)
    assert asdict(row.answer_nll_bits.shift) == pytest.approx(asdict(shift))  # sums of another order: the last digit
    assert 0.005 < row.answer_nll_bits.band < 0.03
    assert (noise.first.batch_size, noise.second.batch_size, noise.second.dtype) == (16, 8, "bfloat16")
    (prose,) = noise.prose  # the same numbers both times
    assert (prose.n, prose.of, prose.bits_per_byte.band) == (32, 64, pytest.approx(0, abs=1e-12))


def test_what_is_no_larger_is_noise_and_what_is_larger_is_not():
    full, again, cut = planted()
    found = bill_runs([full, replace(full, label="copy"), cut], at_most(5), again=again)
    rows = {row.model: row.versus for row in found.rows if row.versus}
    every = ("accuracy_difference", "answer_nll_bits_difference", "answer_nll_bits_per_byte_difference")
    assert (rows["copy"].noise, rows["cut"].noise) == (every, ())
    prose = {row.model: row.noise for row in found.prose}
    assert prose == {"full": None, "copy": ("difference", "difference_bits_per_byte"), "cut": ()}
    document = found.to_json()
    assert nothing_lost(document, "copy") == "copy: every change is noise, no larger than where full is asked twice."
    assert nothing_lost(document, "cut") == ""
    short = {**document["prose"][1], "text": "law", "windows": 1, "noise": None}  # a text of one window has no floor
    short |= {"difference": None, "difference_bits_per_byte": None}
    assert nothing_lost({**document, "prose": [*document["prose"], short]}, "copy")
    assert (
        nothing_lost({**document, "prose": [*document["prose"], {**document["prose"][2], "model": "copy"}]}, "copy")
        == ""
    )
    line = noise_line(document)
    assert line.endswith(" bits per answer may be noise.")  # what is, the interval decides too
    assert "full was asked again in batch size 8 after 16 and bfloat16 after float32. 2 of 100 verdicts flipped" in line
    losses = {loss.model: loss for loss in found.verdict.losses}
    assert losses["copy"].noise
    assert losses["copy"].in_words().endswith("[−1.4, 1.4] (noise)")
    assert not losses["cut"].noise
    unknown = bill_runs([full, cut])
    assert (unknown.noise, unknown.rows[1].versus.noise, unknown.prose[1].noise) == (None, None, None)


def test_noise_is_no_loss_beyond_doubt():
    """A shift of all answers, such as of another precision: the copy has it too, and it is not billed."""
    full, _, _ = planted()
    nll, rng = np.array([s.answer_nll_bits for s in full.samples]), np.random.default_rng(1)
    right = [s.correct for s in full.samples]
    again = run_of("again", right[:100], nll[:100] + rng.normal(0.1, 0.1, 100))
    copy = run_of("copy", right, nll + rng.normal(0.1, 0.1, 200))
    told = bill_runs([full, copy], again=again).to_json()["rows"][1:]
    assert told[0]["versus"]["answer_nll_bits_difference"]["low"] > 0.05
    assert "answer_nll_bits_difference" in told[0]["versus"]["noise"]
    assert "right answers became less likely" not in worst_loss(told)
    told[0]["versus"]["noise"] = None
    assert "right answers became less likely" in worst_loss(told)


def test_a_lossless_change_is_noise_in_95_of_100_cases():
    """Planted: every asking adds its own errors to each answer, heavy in the tails; a third asking is the copy's."""
    rng = np.random.default_rng(0)
    n, within = 300, {100: [], 300: []}
    for _ in range(600):
        first, second, third = (0.02 * rng.standard_t(4, n) for _ in range(3))
        change = paired_mean_difference(first, third)
        for again, found in within.items():
            shift = paired_mean_difference(first[:again], second[:again])
            found.append(is_noise(change, Floor(shift, band(shift, again, n))))
    assert all(np.mean(found) > 0.95 for found in within.values())


def test_the_second_asking_is_smaller_and_in_other_batches():
    full, _, _ = planted()
    often = second_settings(ComparisonSettings(domains=("d",), tasks=("arc_easy",), limit=500), full)
    assert (often.limit, often.batch_size, often.dtype, often.tasks) == (100, 8, "auto", ())
    few = ComparisonSettings(domains=("d",), limit=5, noise_limit=20, noise_dtype="bfloat16")
    one = second_settings(few, replace(full, settings={**SETTINGS, "batch_size": 1}))
    assert (one.limit, one.batch_size, one.dtype) == (5, 3, "bfloat16")
    engine = ComparisonSettings(domains=("d",), backend="vllm", backend_args=(("max_num_seqs", 32),))
    for rows, fewer in ((1, 2), (32, 16), (256, 64)):  # what the engine had, whatever was asked for
        asked = replace(full, settings={**SETTINGS, "batch_size": rows})
        assert second_settings(engine, asked).backend_args == (("max_num_seqs", fewer),)
    for wrong, why in (
        ({"noise_limit": 1}, "--noise-limit 1"),
        ({"noise": False, "noise_dtype": "float32"}, "--noise-dtype is of the noise floor; leave out --no-noise"),
        ({"noise": False, "noise_limit": 50}, "--noise-limit is of the noise floor; leave out --no-noise"),
    ):
        with pytest.raises(UsageError, match=why):
            ComparisonSettings(**wrong)
    assert Again(trials=10).of_prose({"a": [[1]] * 64}) == {"a": [[1]] * 16}


def test_options_of_a_floor_that_is_not_measured_are_refused(tmp_path):
    for number, given in enumerate(({"noise_limit": 50}, {"noise_dtype": "float32"})):
        full = replace(planted()[0], settings={**SETTINGS, "chat_template": False, "few_shot": None})
        write_run(full, folder := tmp_path / f"full{number}")
        option = f"--{next(iter(given)).replace('_', '-')}"
        with pytest.raises(UsageError, match=f"^{option} is of the noise floor, and FULL is a finished run"):
            compare(folder, [folder], out=tmp_path / "out", **given)
        with pytest.raises(UsageError, match=f"^{option} is of the noise floor, and no domain is asked"):
            compare("full", ["cut"], tasks="arc_easy", out=tmp_path / "out", **given)
    found = compare(folder, [folder], out=tmp_path / "out")
    assert found.models[0].notes == ("no noise floor: it is a finished run, which is not asked again",)
    assert compare(folder, [folder], out=tmp_path / "without", noise=False).models[0].notes == ()


def test_the_second_batches_are_other_ones():
    """Of any size, trees are packed to another number of tokens than the first time."""
    assert [other_size(rows) for rows in (1, 2, 3, 4, 8, 64)] == [3, 3, 1, 2, 4, 32]
    assert all(batch_tokens(rows) != batch_tokens(other_size(rows)) for rows in range(1, 65))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory"), RegrowthError("no score")])
def test_a_second_asking_that_fails_loses_nothing(error, monkeypatch):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr("eval.comparison.run", fail)
    again, note = _ask_again("full", ComparisonSettings(domains=("d",)), planted()[0], show_progress=False)
    why = "no score" if isinstance(error, RegrowthError) else "out of memory"
    assert (again, note) == (None, f"the noise floor could not be measured ({why})")
    error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        _ask_again("full", ComparisonSettings(domains=("d",)), planted()[0], show_progress=False)


def test_a_copy_of_a_real_model_is_billed_as_none(sample_model, sample_questions, tmp_path):
    """Byte-identical weights in another folder; the second asking is never answered by what was kept of the first."""
    copy = shutil.copytree(sample_model, tmp_path / "copy")
    asked = {"domains": "medical,math", "limit": 3, "sets": ["medmcqa", "asdiv"], "data": sample_questions}
    asked |= {"dtype": "float32", "cache": tmp_path / "kept", "show_progress": False}
    found = compare(sample_model, [copy], out=tmp_path / "out", noise_limit=2, **asked)
    noise = found.noise
    assert (noise.first.batch_size, noise.second.batch_size) == (8, 4)
    assert [(row.domain, row.protocol, row.n, row.of) for row in noise.rows] == [
        ("medical", "choice", 2, 3),
        ("math", "generation", 2, 3),
    ]
    assert all(abs(row.answer_nll_bits.shift.estimate) < 1e-3 for row in noise.rows)  # rounding, in float32
    assert all(len(row.versus.noise) == 3 for row in found.rows if row.versus)
    document = found.to_json()
    assert nothing_lost(document, "copy")
    scopes = [path.read_text() for path in (tmp_path / "kept").glob("*/scope.json")]
    assert sorted('"again"' in scope for scope in scopes) == [False, True]  # the copy's answers are the model's own
    assert found.measured[1].asked == 0
    for shown in ("comparison.md", "report.html"):
        text = (tmp_path / "out" / shown).read_text()
        assert "Noise floor: model was asked again in batch size 4 after 8." in text
        assert "copy: every change is noise, no larger than where model is asked twice." in text
    assert 'class="noise"' in (tmp_path / "out" / "comparison.svg").read_text()
