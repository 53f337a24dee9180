"""The bill from samples: what a planted loss is billed for, and the verdict over domains."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from eval.billing.judging.policy import at_most, parse_limit, policy_of
from eval.billing.judging.verdict import GO, INCONCLUSIVE, NO_GO, decide, exit_code, judge, more_questions
from eval.billing.rows.bill import bill, corrected, pair
from eval.billing.rows.interactions import bill_interactions
from eval.billing.statistics import POWERED, Interval, mcnemar_exact, paired_mean_difference
from eval.comparison import bill_runs
from eval.reports.wording import text as words
from eval.reports.wording.interactions import clearest
from eval.runs.samples import RunResult
from prune.common.errors import RegrowthError, UsageError
from tests.support.questions import plan_of, sample_of


def _plan(domain, samples, *, choices=("a", "b", "c", "d")):
    answer = {"choices": list(choices), "answer": 0} if choices else {"choices": None, "answer": "1"}
    return plan_of([s.id for s in samples], domain=domain, **answer)


def _run(label, domains):
    """A run of made-up answers: domain -> samples."""
    plans = tuple(_plan(*each) for each in domains.items())
    samples = tuple(sample for own in domains.values() for sample in own)
    settings = {"dtype": "float32", "device": "cpu", "batch_size": 8, "seed": 0}
    return RunResult(label, {"model": label}, plans, samples, {"results": {}}, {}, settings, 1.0, 1, 0)


def _planted(loses):
    """The full model is right on 60 of 100; the other loses what `loses` says by domain (questions, bits)."""
    rng = np.random.default_rng(0)
    full, other = {}, {}
    for domain, (questions, bits) in loses.items():
        nll = rng.gamma(4, 2, 100)
        change = bits + rng.normal(0, 1, 100)
        names = [f"{domain}{i}" for i in range(100)]
        full[domain] = [sample_of(names[i], i < 60, domain=domain, answer_nll_bits=nll[i]) for i in range(100)]
        right = [i < 60 - questions or 60 <= i < 62 for i in range(100)]  # and two gained by luck
        after = nll + change
        other[domain] = [sample_of(names[i], right[i], domain=domain, answer_nll_bits=after[i]) for i in range(100)]
    return _run("full", full), _run("cut", other)


def test_a_model_that_lost_only_math_is_billed_for_math():
    found = bill_runs(_planted({"medical": (2, 0.0), "math": (30, 3.0), "law": (3, 0.0)}), policy=at_most(5))
    rows = {row.domain: row for row in found.rows if row.versus}
    assert {domain for domain, row in rows.items() if row.versus.mcnemar_p_holm < 0.05} == {"math"}
    assert rows["math"].versus.accuracy_difference.high < 0 < rows["math"].versus.answer_nll_bits_difference.low
    for change in (rows[domain].versus.accuracy_difference for domain in ("medical", "law")):
        assert change.low < 0 < change.high
    assert rows["math"].versus.retained_interval.high < 0.5 < rows["law"].versus.retained_interval.low
    pairs = {one.domains: one for one in found.interactions}
    assert set(pairs) == {("medical", "math"), ("medical", "law"), ("math", "law")}
    assert pairs["medical", "math"].accuracy.high < 0  # medicine loses less than math
    assert pairs["medical", "math"].answer_nll_bits.high < 0
    assert pairs["math", "law"].accuracy.low > 0
    assert not _clear(pairs["medical", "law"])
    assert (found.verdict.decision, found.verdict.worst.domain) == (NO_GO, "math")
    assert exit_code(found.verdict.decision) == 3


def test_an_interaction_is_the_difference_of_the_losses():
    runs = _planted({"medical": (5, 0.5), "math": (12, 1.0)})
    rows = corrected(bill_runs(runs).rows)
    (one,) = bill_interactions(rows, runs)
    losses = [-row.versus.accuracy_difference.estimate for row in rows if row.versus]
    assert one.accuracy.estimate == pytest.approx(losses[0] - losses[1]) == pytest.approx(-0.07)
    changes = [row.versus.answer_nll_bits_difference for row in rows if row.versus]
    margins = [found.high - found.estimate for found in changes]
    assert one.answer_nll_bits.high - one.answer_nll_bits.estimate == pytest.approx(math.hypot(*margins))
    assert one.shared == 0
    assert one.at_chance == ()


def _longer(result, domain, choices):
    """The same run with other options, of which the first is right."""
    tasks = tuple(
        replace(t, questions=tuple(replace(q, choices=choices) for q in t.questions)) if t.domain == domain else t
        for t in result.tasks
    )
    return replace(result, tasks=tasks)


def test_domains_are_compared_by_bits_per_byte_of_the_answer():
    """Medicine loses 4 bits on answers of 40 bytes, math 1 bit on answers of one: math lost more."""
    long = tuple(letter * 40 for letter in "abcd")
    runs = [_longer(result, "medical", long) for result in _planted({"medical": (3, 4.0), "math": (3, 1.0)})]
    found = bill_runs(runs)
    (one,) = found.interactions
    assert one.answer_nll_bits.low > 0
    assert one.answer_nll_bits_per_byte.high < 0
    rows = {row.domain: row for row in found.rows if row.versus}
    assert (rows["medical"].answer_bytes, rows["math"].answer_bytes) == (40, 1)
    own = rows["medical"].versus
    for bound in ("estimate", "low", "high"):  # answers of one length: the interval per answer, over that length
        per_answer = getattr(own.answer_nll_bits_difference, bound)
        assert getattr(own.answer_nll_bits_per_byte_difference, bound) == pytest.approx(per_answer / 40)
    per_byte = rows["math"].versus.answer_nll_bits_per_byte_difference
    assert one.answer_nll_bits_per_byte.estimate == pytest.approx(
        own.answer_nll_bits_per_byte_difference.estimate - per_byte.estimate
    )
    told = [asdict(row) for row in found.rows]
    worst = words.bits(asdict(per_byte), "bits per byte")
    assert words.worst_loss(told).endswith(f"most by cut in math choice, {worst}.")


def test_a_loss_beyond_doubt_is_named_before_a_larger_one_that_may_be_none():
    def row(domain, nll, accuracy):
        change = {"accuracy_difference": accuracy, "answer_nll_bits_difference": nll}
        change["answer_nll_bits_per_byte_difference"] = nll
        return {"domain": domain, "protocol": "choice", "model": "cut", "versus": change}

    sure, unsure = {"estimate": 1.0, "low": 0.5, "high": 1.5}, {"estimate": 2.0, "low": -1.0, "high": 5.0}
    level = {"estimate": 0.0, "low": -0.1, "high": 0.1}
    rows = [row("math", unsure, level), row("medical", sure, level)]
    assert "most by cut in medical choice" in words.worst_loss(rows)
    assert words.worst_loss(rows[:1]) == "No accuracy was lost in any domain, by the estimates."
    falls = [{"estimate": -one["estimate"], "low": -one["high"], "high": -one["low"]} for one in (unsure, sure)]
    lost = [row("math", level, falls[0]), row("medical", level, falls[1])]
    assert words.worst_loss(lost).startswith("cut loses most accuracy in medical choice")


def test_the_same_questions_in_two_domains_differ_by_nothing():
    full, cut = _planted({"mathematics": (20, 2.0)})
    doubled = []
    for result in (full, cut):
        own = list(result.samples)
        again = [replace(s, domain="math") for s in result.samples]
        doubled.append(_run(result.label, {"mathematics": own, "math": again}))
    (one,) = bill_runs(doubled).interactions
    assert one.shared == 100
    for interval, within in ((one.accuracy, 0.01), (one.answer_nll_bits, 1e-6), (one.answer_nll_bits_per_byte, 1e-6)):
        assert list(vars(interval).values()) == pytest.approx([0, 0, 0], abs=within)


def test_holm_is_over_the_domains_of_each_model():
    full, cut = _planted({"medical": (8, 0), "math": (14, 0)})
    found = bill_runs((full, cut, replace(cut, label="other"))).rows
    rows = {row.domain: row.versus for row in found if row.model == "cut"}
    p_values = {domain: mcnemar_exact(lost, 2) for domain, lost in (("medical", 8), ("math", 14))}
    assert rows["math"].mcnemar_p_holm == pytest.approx(2 * p_values["math"])
    assert rows["medical"].mcnemar_p_holm == pytest.approx(p_values["medical"])


def test_questions_of_one_passage_widen_the_interval():
    full = [sample_of(f"q{i}", answer_nll_bits=1.0, cluster=f"p{i // 5}") for i in range(100)]
    moved = [replace(s, correct=i // 5 >= 6, answer_nll_bits=1.0 + (i // 5 < 6)) for i, s in enumerate(full)]
    plan = _plan("d", full)
    clustered = bill(plan, "m", moved, full)
    plain = bill(plan, "m", *[[replace(s, cluster="") for s in side] for side in (moved, full)])
    assert (clustered.clusters, plain.clusters) == (20, 100)
    for key in ("accuracy_difference", "answer_nll_bits_difference"):
        wide, narrow = getattr(clustered.versus, key), getattr(plain.versus, key)
        assert wide.estimate == narrow.estimate
        assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)
    units = [s.unit for s in full]
    wanted = paired_mean_difference([1.0] * 100, [s.answer_nll_bits for s in moved], units)
    assert clustered.versus.answer_nll_bits_difference == wanted
    with pytest.raises(RegrowthError, match="share one passage"):
        bill(plan, "m", [replace(s, cluster="p") for s in full], None)


def test_what_is_no_pair_is_refused():
    full = [sample_of("a"), sample_of("b")]
    assert pair(full, list(reversed(full))) == (full, full)
    for other, why in (
        ([sample_of("a"), sample_of("b", prompt_hash="other words")], "different prompts"),
        ([sample_of("a"), sample_of("c")], "2 questions were asked of only one"),
        ([sample_of("c"), sample_of("d")], "no question in common"),
    ):
        with pytest.raises(RegrowthError, match=why):
            pair(full, other)
    with pytest.raises(RegrowthError, match="needs 2 at least"):
        bill(_plan("d", full[:1]), "m", full[:1], None)


def test_the_bill_pairs_by_question_not_by_place():
    full = [sample_of("a"), sample_of("b", correct=False), sample_of("c")]
    other = [sample_of("c"), sample_of("b", correct=False), sample_of("a", correct=False)]
    plan = _plan("d", full)
    versus = bill(plan, "m", other, full).versus
    assert (versus.lost, versus.gained) == (1, 0)
    assert versus.retained_above_chance == pytest.approx((1 / 3 - 0.25) / (2 / 3 - 0.25))
    assert versus.full_above_chance is False
    unparsed = replace(full[0], parsed=False)
    assert bill(plan, "m", [unparsed, *full[1:]], None).unparseable == pytest.approx(1 / 3)


def test_few_questions_are_a_warning():
    full, cut = _planted({"medical": (5, 0.5)})
    short = [_run(r.label, {"medical": list(r.samples[50:75])}) for r in (full, cut)]
    assert bill_runs((full, cut)).warnings == ()
    assert bill_runs(short).warnings == ("medical choice has 25 questions; below 30 an interval says little",)


def test_a_limit_is_a_percentage():
    assert parse_limit("5%") == at_most(5)
    assert parse_limit(" 2.5 % ") == at_most(2.5)
    for wrong in ("5", "0.05", "-1%", "101%", "five%", ""):
        with pytest.raises(UsageError, match="--max-loss"):
            parse_limit(wrong)


def test_a_policy_is_a_limit_or_a_file(tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text("must: {accuracy: 5}")
    assert policy_of(None, None) is None
    assert policy_of("5%", None) == at_most(5)
    assert policy_of(None, file).of_domain("math") == ("must", {"accuracy": 5})
    with pytest.raises(UsageError, match="--max-loss is the short form of a --policy; give one of the two"):
        policy_of("5%", file)


@pytest.mark.parametrize(
    ("interval", "limit", "decision"),
    [
        ((0.07, 0.02, 0.12), 0.12, GO),  # the upper end on the limit is within it
        ((0.07, 0.02, 0.12), 0.05, INCONCLUSIVE),
        ((0.07, 0.02, 0.12), 0.08, INCONCLUSIVE),
        ((0.07, 0.02, 0.12), 0.02, INCONCLUSIVE),
        ((0.07, 0.02, 0.12), 0.01, NO_GO),
        ((-0.07, -0.12, -0.02), 0.0, GO),
    ],
)
def test_the_whole_interval_decides(interval, limit, decision):
    assert decide(Interval(*interval), limit) == decision


def test_an_open_verdict_says_how_many_questions_would_decide():
    rows = bill_runs(_planted({"medical": (2, 0.0), "math": (9, 1.0)})).rows  # 7 points lost of 100 questions
    open_ = judge(rows, at_most(5))
    assert (open_.decision, open_.worst.domain) == (INCONCLUSIVE, "math")
    assert open_.worst.loss.estimate == pytest.approx(0.07)
    assert "cut on math choice loses 7.0 points" in open_.sentence
    loss = open_.worst.loss
    more = open_.worst.more_questions
    assert more == math.ceil(100 * (POWERED * (loss.estimate - loss.low) / 0.02) ** 2) - 100
    assert open_.sentence.endswith("more questions there would decide")
    assert more_questions(Interval(0.05, 0.0, 0.1), 0.05, 100) is None
    assert more_questions(Interval(0.03, 0.01, 0.05), 0.07, 100) == 0

    sure = judge(rows, at_most(30))
    assert (sure.decision, sure.worst.more_questions) == (GO, None)
    assert "more questions" not in sure.sentence
    assert [one.domain for one in sure.losses] == ["math", "medical"]


def test_a_loss_beyond_doubt_decides_before_an_open_one():
    rows = bill_runs(_planted({"medical": (20, 0.0), "math": (60, 1.0)})).rows
    found = judge(rows, at_most(18))
    assert {one.domain: one.decision for one in found.losses} == {"math": NO_GO, "medical": INCONCLUSIVE}
    assert (found.decision, found.worst.domain) == (NO_GO, "math")


def test_a_domain_at_chance_is_not_judged():
    full = [sample_of(f"q{i}", correct=i < 25) for i in range(100)]
    other = [replace(s, correct=False) for s in full]
    rows = bill_runs((_run("full", {"d": full}), _run("cut", {"d": other}))).rows
    found = judge(rows, at_most(5))
    assert (found.decision, found.worst, exit_code(found.decision)) == (INCONCLUSIVE, None, 4)
    assert found.losses[0].at_chance


def _open_rows(right, kept, domain="d"):
    """The rows of a generation task of 100 questions: the full model has `right`, the cut one `kept` of them."""
    full = [sample_of(f"q{i}", correct=i < right) for i in range(100)]
    cut = [replace(s, correct=i < kept) for i, s in enumerate(full)]
    plan = _plan(domain, full, choices=())
    return [bill(plan, "full", full, None), bill(plan, "cut", cut, full)]


def test_what_could_not_lose_as_much_cannot_pass():
    """4 of 100 right and none after the cut: all is lost, and still below a limit of 5 points."""
    found = judge(_open_rows(4, 0), at_most(5))
    assert not found.losses[0].at_chance
    assert found.losses[0].room == pytest.approx(0.04)
    assert (found.decision, found.worst, exit_code(found.decision)) == (INCONCLUSIVE, None, 4)
    assert "more than 5 points above chance in no domain" in found.sentence
    assert judge(_open_rows(5, 0), at_most(5)).worst is None  # it can lose 5 points, but not more
    assert judge(_open_rows(4, 0), at_most(3)).worst.decision == INCONCLUSIVE  # beyond the limit, but not beyond doubt
    assert judge(_open_rows(30, 0), at_most(5)).decision == NO_GO
    beside = judge([*_open_rows(4, 0), *_open_rows(50, 50, "e")], at_most(5))
    assert (beside.decision, beside.worst.domain) == (GO, "e")
    assert "not judged, for the full model is not 5 points above chance there" in beside.sentence
    assert beside.sentence.endswith("cannot lose as many: d generation")
    assert judge(_open_rows(30, 28), at_most(10)).decision == GO
    assert "no domain was asked" in judge([], at_most(5)).sentence


def _clear(row):
    return bool(words.larger(vars(row.accuracy)) or words.larger(vars(row.answer_nll_bits_per_byte)))


def test_of_many_pairs_only_the_clear_ones_are_shown():
    loses = {f"d{i}": (30 if i == 0 else 3, 3.0 if i == 0 else 0.0) for i in range(7)}
    rows = bill_runs(_planted(loses)).interactions
    told = [asdict(row) for row in rows]
    shown = clearest(told, ("accuracy", "answer_nll_bits_per_byte"))
    assert len(told) == 21 > len(shown)
    assert all(row["domains"] in [r.domains for r in rows if _clear(r)] for row in shown)
    assert {row["domains"] for row in shown} >= {("d0", f"d{i}") for i in range(1, 7)}
    assert clearest(told[:3], ("accuracy",)) == told[:3]
