"""Policies: what a file may say, and the verdict of each tier, limit and gain on planted rows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from eval.billing.judging.losses import Loss
from eval.billing.judging.policy import Measured, Policy, Tier, at_most, check_policy, read_policy
from eval.billing.judging.verdict import GO, INCONCLUSIVE, NO_GO, decide, exit_code, judge, more_questions
from eval.billing.rows.bill import ProseRow, bill
from eval.billing.rows.needles import NeedleRow
from eval.billing.rows.thinking import bill_thinking
from eval.billing.statistics import Interval, paired_accuracy_difference, paired_mean_difference
from eval.gains.record import GainRatios, Gains, ModelGains, Spread
from prune.common.errors import RegrowthError, UsageError
from tests.support.questions import plan_of, sample_of

LABELS = ("full", "cut")
MEASURED = Measured(domains=("medical", "math"), both_modes=False, needles=False, prose=False, gains=True)


def policy_of(**parts):
    """A policy as a file says it."""
    return Policy.model_validate(parts)


def rows_of(domain, lost, *, gained=0, right=600, n=1000, bits=0.0, model="cut"):
    """The full model has `right` of n open questions; the other loses some, and its answers cost `bits` more each."""
    full = [sample_of(f"{domain}{i}", i < right, domain=domain, protocol="generation") for i in range(n)]
    cut = [
        replace(
            one, correct=lost <= i < right or right <= i < right + gained, answer_nll_bits=4 + bits * (1 + i % 2 / 9)
        )
        for i, one in enumerate(full)
    ]
    plan = plan_of([one.id for one in full], domain=domain, choices=None, answer="12")
    return [bill(plan, "full", full, None), bill(plan, model, cut, full)]


# At 1000 questions 5 lost are 0.5 points [0, 1], 40 lost 4 points [2.7, 5.2], 100 lost 10 points [8, 12].
@pytest.mark.parametrize(
    ("tier", "lost", "decision"),
    [
        ("must", 5, GO),
        ("must", 40, INCONCLUSIVE),
        ("must", 100, NO_GO),
        ("should", 5, GO),
        ("should", 40, GO),  # beyond its limit perhaps, and not for certain
        ("should", 100, NO_GO),
        ("told", 100, GO),
    ],
)
def test_what_each_tier_makes_of_a_loss(tier, lost, decision):
    kept = {"domains": ["math"], "accuracy": 5}
    other = "should" if tier == "must" else "must"
    policy = policy_of(**{tier: kept, other: {"domains": ["medical"], "accuracy": 5}})
    found = judge([*rows_of("math", lost), *rows_of("medical", 0)], policy)
    assert found.decision == decision
    assert exit_code(decision) == {GO: 0, NO_GO: 3, INCONCLUSIVE: 4}[decision]
    (one,) = [loss for loss in found.losses if loss.domain == "math"]
    assert (one.tier, one.limit) == (tier, 0.05)
    assert one.decision == {5: GO, 40: INCONCLUSIVE, 100: NO_GO}[lost]  # said of each, whatever its tier
    if (tier, lost) == ("should", 40):
        assert found.sentence.endswith("should hold, and not proved: math generation")
    if decision == NO_GO:
        assert "cut on math generation loses 10.0 points of accuracy [8" in found.sentence
        assert found.worst == one


def test_a_domain_may_have_limits_of_its_own():
    medical, math = rows_of("medical", 40), rows_of("math", 40)
    policy = policy_of(must={"accuracy": 5, "domains": {"medical": {"accuracy": 10}, "math": None}})
    found = judge([*medical, *math], policy)
    assert {loss.domain: loss.limit for loss in found.losses} == {"medical": 0.1, "math": 0.05}
    assert (found.decision, found.worst.domain) == (INCONCLUSIVE, "math")


def test_a_tier_without_domains_takes_those_that_no_other_names():
    policy = policy_of(must={"accuracy": 5}, told={"domains": ["math"]})
    assert judge([*rows_of("math", 300), *rows_of("medical", 0)], policy).decision == GO
    assert judge([*rows_of("math", 0), *rows_of("medical", 300)], policy).decision == NO_GO
    named = policy_of(must={"accuracy": 5, "domains": ["medical"]})
    assert judge([*rows_of("math", 300), *rows_of("medical", 0)], named).decision == GO  # and math is told
    nothing = judge(rows_of("math", 300), named)
    assert (nothing.decision, nothing.losses) == (INCONCLUSIVE, ())
    assert "medical must hold, and nothing of it can be judged" in nothing.sentence
    free = judge(rows_of("math", 300), policy_of(should={"accuracy": 5, "domains": ["medical"]}))
    assert "no limit for anything that was asked" in free.sentence


def test_bits_per_byte_of_answers_are_limited():
    """Answers of two bytes that cost a bit more each: half a bit a byte."""
    rows = rows_of("math", 0, bits=1.0)
    for limit, decision in ((0.6, GO), (0.3, NO_GO)):
        found = judge(rows, policy_of(must={"answer_bits_per_byte": limit, "domains": ["math"]}))
        assert found.decision == decision
        assert "cut on math generation loses 0.528 bits per byte of its answers" in found.sentence
        assert f"{limit}" in found.sentence


def test_a_domain_that_must_hold_and_cannot_be_judged_opens_no_gate():
    """The full model is at chance in math: its accuracy proves nothing, its answers' bits do."""
    rows = [*rows_of("medical", 0), *rows_of("math", 0, right=3)]
    blind = judge(rows, policy_of(must={"accuracy": 5, "domains": ["medical", "math"]}))
    assert (blind.decision, blind.worst) == (INCONCLUSIVE, None)
    assert "math must hold, and nothing of it can be judged" in blind.sentence
    assert judge(rows, at_most(5)).decision == GO  # no domain is named: what cannot be judged is told
    both = policy_of(must={"accuracy": 5, "answer_bits_per_byte": 0.1, "domains": ["medical", "math"]})
    assert judge(rows, both).decision == GO


def unscored(rows):
    """The rows of answers that were generated, and not scored."""
    return [
        replace(
            row,
            versus=row.versus and replace(row.versus, answer_nll_bits_per_byte_difference=None),
            answer_nll_bits=None,
        )
        for row in rows
    ]


def test_what_must_hold_and_was_not_measured_opens_no_gate():
    """A text of one window and needles that a model knows have no loss; accuracy that holds does not make up for it."""
    rows = rows_of("math", 0)
    prose = [ProseRow(text, label, 3, 1, n, None, None) for text, n in (("wiki", 64), ("law", 1)) for label in LABELS]
    change = Interval(0.01, 0.0, 0.02)
    prose[1] = replace(prose[1], difference=change, difference_bits_per_byte=change)
    for limits, given, why in (
        ({"prose_bits_per_byte": 0.05}, {"prose": prose}, "of cut on prose law: it takes two windows"),
        ({"prose_bits_per_byte": 0.05}, {"prose": prose[2:]}, "of cut on prose law: it takes two windows"),
        ({"prose_bits_per_byte": 0.05}, {}, "of cut: it takes two windows"),
        ({"needle_recall": 5}, {}, "of cut: it takes two needles"),
        ({"a_slow": 5}, {}, "of cut"),
    ):
        found = judge(rows, policy_of(must={"accuracy": 5, **limits}), **given)
        assert found.decision == found.models[0].decision == INCONCLUSIVE
        assert f"must limits {next(iter(limits))}, and it could not be measured {why}" in found.sentence
        told = policy_of(must={"accuracy": 5}, should=limits if "a_slow" not in limits else None)
        assert judge(rows, told, **given).decision == GO
    assert judge(rows, policy_of(must={"accuracy": 5, "prose_bits_per_byte": 0.05}), prose=prose[:2]).decision == GO
    lost = judge(rows_of("math", 300), policy_of(must={"accuracy": 5, "needle_recall": 5}))
    assert lost.decision == NO_GO  # a loss for certain goes first


def test_a_named_domain_whose_answers_were_not_scored_opens_no_gate():
    rows = [*rows_of("medical", 0), *unscored(rows_of("math", 0))]
    named = {"medical": {"accuracy": 5}, "math": {"answer_bits_per_byte": 0.1}}
    found = judge(rows, policy_of(must={"domains": named}))
    assert (found.decision, found.models[0].decision) == (INCONCLUSIVE, INCONCLUSIVE)
    assert "math must hold, and nothing of it can be judged" in found.sentence
    both = policy_of(must={"accuracy": 5, "answer_bits_per_byte": 0.1, "domains": ["medical", "math"]})
    assert "could not be measured of cut on math: it takes right answers" in judge(rows, both).sentence
    assert judge(rows, both).decision == INCONCLUSIVE
    assert judge(rows[:2], policy_of(must={"domains": {"medical": {"accuracy": 5}}})).decision == GO


def test_a_model_without_gains_has_not_reached_them():
    """One of two models could not be measured, or the full one could not."""
    policy, record = policy_of(gains={"weight_bytes": 0.75}), gains_of((0.7, 0.7, 0.7), (1.3, 1.25, 1.4))
    found = judge([], policy, gains=record, models=["cut", "other"])
    assert found.decision == INCONCLUSIVE
    assert {one.model: one.decision for one in found.models} == {"cut": GO, "other": INCONCLUSIVE}
    assert "other: its weight bytes could not be measured" in found.sentence
    failed = record.model_copy(update={"models": (record.models[1].model_copy(update={"ratio": None}),)})
    for labels, said in (([], "no gain could be measured"), (["cut"], "cut: its weight bytes could not be measured")):
        none = judge([], policy, gains=failed, models=labels)
        assert none.decision == INCONCLUSIVE
        assert said in none.sentence
        assert "no domain was asked" not in none.sentence


def test_few_questions_decide_nothing():
    rows = rows_of("math", 0, right=60, n=100)
    policy = {"must": {"accuracy": 5, "domains": ["math"]}}
    assert judge(rows, policy_of(**policy)).decision == GO
    found = judge(rows, policy_of(**policy, least_questions=150))
    assert (found.decision, found.worst.more_questions) == (INCONCLUSIVE, 50)
    assert "100 questions are fewer than the 150 that the policy asks for; 50 more may decide" in found.sentence
    assert (
        judge(rows_of("math", 90, right=90, n=100), policy_of(**policy, least_questions=150)).decision == INCONCLUSIVE
    )


def needles_of(lost):
    """Recall of 0.9 before, over all lengths and over one of two."""
    rows = []
    for length in (None, 1000):
        full = NeedleRow("full", length, 10, 50, Interval(0.9, 0.8, 0.95), Interval(0.9, 0.8, 0.95), None, None)
        change = Interval(-lost, -lost - 0.02, -lost + 0.02)
        rows += [full, replace(full, model="cut", recall_difference=change, answered_difference=change)]
    return rows


def test_needle_recall_is_limited_over_all_lengths():
    policy = policy_of(must={"needle_recall": 10})
    for lost, decision in ((0.05, GO), (0.1, INCONCLUSIVE), (0.2, NO_GO)):
        found = judge([], policy, needles=needles_of(lost))
        assert (found.decision, len(found.losses)) == (decision, 1)
    assert "cut on needle recall loses 20.0 points of recall [18.0, 22.0], more than the 10 allowed" in found.sentence


def test_prose_is_limited_text_by_text():
    policy = policy_of(should={"prose_bits_per_byte": 0.05})
    for lost, decision in ((0.04, GO), (0.06, GO), (0.1, NO_GO)):
        change = Interval(lost, lost - 0.02, lost + 0.02)
        rows = [ProseRow("wiki", "full", 3, 1, 64, None, None), ProseRow("wiki", "cut", 3, 1, 64, change, change)]
        found = judge([], policy, prose=rows)
        assert found.decision == decision
    assert found.sentence.startswith("NO-GO: cut on prose wiki loses 0.100 bits per byte [0.080, 0.120]")


def test_thinking_is_limited_by_mode():
    counts = ([True] * 60 + [False] * 40, [True] * 90 + [False] * 10)
    full, cut = (_thought(label, slow) for label, slow in (("full", counts[1]), ("cut", [True] * 40 + [False] * 60)))
    thinking = bill_thinking([full, cut])
    for measure, decision in (("a_fast", GO), ("a_slow", NO_GO)):
        found = judge([], policy_of(should={measure: 10, "domains": ["d"]}), thinking=thinking)
        assert (found.decision, [loss.measure for loss in found.losses]) == (decision, [measure])


def _thought(label, slow):
    plans = tuple(
        plan_of([f"q{i}" for i in range(100)], mode, choices=list("abcd"), answer=0) for mode in ("fast", "slow")
    )
    samples = []
    for plan, right in zip(plans, ([True] * 60 + [False] * 40, slow), strict=True):
        more = {"thinking": plan.thinking, "answer_nll_bits": None, "prompt_hash": plan.name}
        samples += [sample_of(f"q{i}", right[i], **more) for i in range(100)]
    return SimpleNamespace(
        label=label, tasks=plans, of=lambda task: [s for s in samples if s.thinking == task.thinking]
    )


@pytest.mark.parametrize(
    ("name", "ratio", "decision"),
    [
        ("weight_bytes", (0.7, 0.7, 0.7), GO),
        ("weight_bytes", (0.8, 0.8, 0.8), NO_GO),
        ("decode", (1.3, 1.25, 1.4), GO),
        ("decode", (1.2, 1.1, 1.3), INCONCLUSIVE),
        ("decode", (1.0, 0.9, 1.1), NO_GO),
        ("decode", None, INCONCLUSIVE),
    ],
)
def test_gains_have_to_be_reached(name, ratio, decision):
    policy = policy_of(must={"accuracy": 5}, gains={"weight_bytes": "0.75x", "decode": 1.2})
    measured = {"weight_bytes": (0.7, 0.7, 0.7), "decode": (1.3, 1.25, 1.4)} | {name: ratio}
    record = gains_of(**measured) if ratio else None
    found = judge(rows_of("math", 0), policy, gains=record)
    assert found.decision == decision
    assert {gain.name: gain.decision for gain in found.gains}[name] == decision
    if decision == NO_GO:
        side = "at most 0.75x" if name == "weight_bytes" else "at least 1.2x"
        assert f"of the full model's {'weight bytes' if name == 'weight_bytes' else 'decode speed'}" in found.sentence
        assert f", and {side} is asked" in found.sentence
    if ratio is None:
        assert "cut: its decode speed could not be measured, and at least 1.2x is asked" in found.sentence
    else:
        assert judge([], policy_of(gains={name: policy.gains[name]}), gains=record).decision == decision


def gains_of(weight_bytes, decode):
    """What was measured of the cut model, as ratios."""
    speed, same = (Spread(median=m, low=low, high=high) for m, low, high in (decode, (1.0, 1.0, 1.0)))
    one = {"parameters": 1, "weight_bytes": 1, "kv_bytes_per_token": 1.0, "peak_memory_bytes": None}
    one |= {"prefill_tokens_per_second": same, "decode_tokens_per_second": same}
    ratio = {**one, "parameters": 1.0, "weight_bytes": weight_bytes[0], "decode_tokens_per_second": speed}
    models = (ModelGains(model="full", ratio=None, **one), ModelGains(model="cut", ratio=GainRatios(**ratio), **one))
    how = {"engine": "transformers", "device": "cpu", "peak": "process", "context": 8, "new_tokens": 8}
    return Gains(**how, sequences=1, rounds=3, models=models, notes=())


def test_each_model_has_its_own_verdict():
    rows = [*rows_of("math", 0, model="healed"), rows_of("math", 300, model="pruned")[1]]
    found = judge(rows, at_most(5))
    assert found.decision == NO_GO
    assert {one.model: one.decision for one in found.models} == {"healed": GO, "pruned": NO_GO}
    assert all("pruned" not in one.sentence for one in found.models if one.model == "healed")


def test_so_many_more_questions_decide_in_four_of_five_runs():
    """Planted: 6 of 100 lost, 2 gained, 6 points allowed; and a rise of 1 bit with a spread of 3, and 1.2 allowed."""
    rng = np.random.default_rng(0)
    n, shares, limit = 200, (0.06, 0.02, 0.92), 0.06
    asked = paired_accuracy_difference(12, 4, n).negated
    total = n + more_questions(asked, limit, n)
    assert decide(asked, limit) == INCONCLUSIVE
    drawn = rng.multinomial(total, shares, 2000)
    decided = [decide(paired_accuracy_difference(int(lost), int(won), total).negated, limit) for lost, won, _ in drawn]
    assert 0.75 < np.mean([one == GO for one in decided]) < 0.88
    assert NO_GO not in decided

    before, first = np.zeros(100), rng.normal(0, 1, 100)
    first = 1 + 3 * (first - first.mean()) / first.std(ddof=1)  # as measured: exactly as planted
    asked = paired_mean_difference(before, first)
    total = 100 + more_questions(asked, 1.2, 100)
    again = rng.normal(1, 3, (1000, total))
    decided = [decide(paired_mean_difference(np.zeros(total), row), 1.2) for row in again]
    assert 0.75 < np.mean([one == GO for one in decided]) < 0.85


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("must: {accuracy: 5, domains: [math]}\ntold: {domains: [math]}", "domain math stands in must and in told"),
        ("must: {accuracy: 5}\nshould: {accuracy: 9}", "must and should name no domains, and only one tier"),
        ("must: {needle_recall: 5}\nshould: {needle_recall: 9}", "needle_recall stands in must and in should"),
        ("must: {domains: [math]}", "must has no limit"),
        ("must: {domains: {math: {accuracy: 5}, law: null}}", "must has no limit for law"),
        ("must: {accuracy: 5, domains: [math, math]}", "must.domains: math stands there twice"),
        ("must: {accuracy: 5, domains: []}", "must.domains: names no domain"),
        ("told: {domains: [math]}", "it decides nothing"),
        ("must: {accuracy: -1}", "must.accuracy: Input should be greater"),
        ("must: {accuracy: 5%}", "must.accuracy: Input should be a valid number"),
        ("must: {acuracy: 5}", "unknown field acuracy; must takes accuracy"),
        ("most: {accuracy: 5}", "unknown field most; the file takes must, should, told"),
        (
            "must: {domains: {math: {needle_recall: 5}}}",
            "unknown field needle_recall; must.domains.math takes accuracy",
        ),
        ("gains: {speed: 2x}", "gains: speed is not measured; it takes parameters, weight_bytes"),
        ("gains: {decode: fast}", "gains.decode: Input should be a valid number"),
        ("gains: {decode: 0x}", "gains.decode: Input should be greater than 0"),
        ("must: {accuracy: 5}\nleast_questions: 0", "least_questions: Input should be greater"),
        ("must: {accuracy: 5}\nmust: {accuracy: 9}", ":2: must stands there twice"),
        ("must:\n  accuracy: 5\n  domains:\n    math:\n    math: {accuracy: 9}", ":5: math stands there twice"),
        ("", "is no mapping"),
        ("- must", "is no mapping"),
        ("must: [", "is not YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_makes_no_policy(text, why, tmp_path):
    path = tmp_path / "policy.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RegrowthError) as error:
        read_policy(path)
    assert str(error.value).startswith(f"--policy {path}")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (
            {"must": {"accuracy": 5, "domains": ["law"]}},
            "must names domain law, which is not asked .asked: medical, math",
        ),
        ({"must": {"a_slow": 5}}, "must limits a_slow, which is not measured; add --thinking fast,slow"),
        ({"should": {"needle_recall": 5}}, "should limits needle_recall, which is not measured; add --needles"),
        ({"must": {"prose_bits_per_byte": 1}}, "must limits prose_bits_per_byte, which is not measured; add --text"),
    ],
)
def test_limits_of_what_is_not_measured_are_refused(policy, why):
    with pytest.raises(UsageError, match=f"^--policy release.yaml: {why}"):
        check_policy(policy_of(**policy), "release.yaml", MEASURED)


def test_gains_that_are_not_measured_are_refused():
    policy = policy_of(gains={"decode": "1.2x"})
    check_policy(policy, "release.yaml", MEASURED)
    with pytest.raises(UsageError, match="asks for gains, which are not measured; leave out --no-gains"):
        check_policy(policy, "release.yaml", replace(MEASURED, gains=False))
    with pytest.raises(UsageError, match="must limits accuracy, which is not measured; add --domains"):
        check_policy(policy_of(must={"accuracy": 1}), "release.yaml", replace(MEASURED, domains=()))


def test_runs_of_others_are_not_told_to_ask_more():
    """There --needles, --text and gains are refused: the remedy is another one."""
    read = replace(MEASURED, gains=False, remedy="leave it out")
    for policy in ({"must": {"needle_recall": 5}}, {"must": {"prose_bits_per_byte": 1}}, {"gains": {"decode": 1.2}}):
        with pytest.raises(UsageError, match="not measured; leave it out$"):
            check_policy(policy_of(**policy), "release.yaml", read)


@pytest.mark.parametrize(
    ("measure", "loss", "words"),
    [
        ("accuracy", (0.07, 0.02, 0.12), "loses 7.0 points of accuracy [2.0, 12.0]"),
        ("accuracy", (0.01, -0.02, 0.04), "loses 1.0 points of accuracy [−2.0, 4.0]"),
        ("accuracy", (-0.01, -0.04, 0.02), "changes by +1.0 points of accuracy [−2.0, +4.0]"),
        ("accuracy", (-0.0001, -0.04, 0.04), "loses 0.0 points of accuracy [−4.0, 4.0]"),
        ("prose_bits_per_byte", (-0.02, -0.03, -0.01), "changes by −0.020 bits per byte [−0.030, −0.010]"),
    ],
)
def test_a_gain_is_not_called_a_loss(measure, loss, words):
    assert Loss("cut", "math", "choice", measure, Interval(*loss), 100).in_words() == f"cut on math choice {words}"


def test_a_policy_is_written_and_read_back():
    policy = policy_of(must={"accuracy": 5, "domains": {"math": {"a_slow": 2.5}}}, gains={"decode": "1.25x"})
    assert policy.gains == {"decode": 1.25}
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    assert policy.must.domains["math"].over(policy.must).of_domains == {"accuracy": 5, "a_slow": 2.5}
    assert at_most(5) == Policy(must=Tier(accuracy=5, a_fast=5, a_slow=5))
