"""What goes first as layers go: planted orders, planted ties, and what cannot be told."""

import json

import numpy as np
import pytest

from eval.billing.rows.counts import thinking_scores
from eval.depth.contrasting import asymmetry
from eval.depth.contrasting.asymmetry import Answers, Asymmetry, first_beyond

SIZES = (0, 2, 4, 6, 8, 10)
STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
EARLY = (0.0, 0.2, 0.3, 0.35, 0.4, 0.4)
LATE = (0.0, 0.0, 0.0, 0.0, 0.25, 0.3)


def order_of_events(sizes, answers, seed=0):
    """With fewer resamples, for speed."""
    return asymmetry.order_of_events(sizes, answers, resamples=300, seed=seed)


def planted(spoils=STILL, fixes=STILL, *, known=0.5, corrects=0.5, forgets=STILL, questions=600, each=1, seed=0):
    """Verdicts whose r_o is 0.1 + spoils, r_c `corrects` - fixes, and A_fast `known` - forgets at each size.

    The same draws at each size, so that questions are alike from size to size.
    """
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(questions // each), each)
    know, think = (rng.random(questions // each)[clusters] for _ in range(2))
    fast = np.array([know < known - lost for lost in forgets])
    slow = np.array(
        [
            np.where(right, think >= 0.1 + spoiled, think < corrects - fixed)
            for right, spoiled, fixed in zip(fast, spoils, fixes, strict=True)
        ]
    )
    return Answers("mathematics", fast, slow, clusters)


@pytest.mark.parametrize(
    ("spoils", "fixes", "verdict"),
    [(EARLY, LATE, "overthinking first"), (LATE, EARLY, "correction first"), (EARLY, STILL, "overthinking first")],
)
def test_a_planted_order_is_told(spoils, fixes, verdict):
    found = order_of_events(SIZES, planted(spoils, fixes)).overthinking
    assert found.verdict == verdict
    first = found.first if verdict == "overthinking first" else found.second
    assert (first.certain, first.reached) == (2, 2)
    assert max(found.first_earlier, found.second_earlier) > 0.99


def test_both_at_one_size_are_not_told_apart():
    found = order_of_events(SIZES, planted(EARLY, EARLY)).overthinking
    assert (found.first.reached, found.second.reached) == (2, 2)
    assert found.first_earlier < 0.05
    assert found.verdict == "cannot tell here"
    still = order_of_events(SIZES, planted())
    assert still.overthinking.first.certain is None
    assert (still.overthinking.first_earlier, still.overthinking.second_earlier) == (0, 0)


def test_an_order_is_not_told_of_a_change_that_is_not_certain():
    answers = planted((0.0, *[0.12] * 5), questions=70, seed=2)
    found = asymmetry.order_of_events(SIZES, answers, margin=0.01, resamples=500, seed=0).overthinking
    assert found.first_earlier > 0.95
    assert found.first.certain is None
    assert found.verdict == "cannot tell here"


def test_knowledge_and_reasoning():
    forgets = order_of_events(SIZES, planted(known=0.6, forgets=EARLY, corrects=0.4)).knowledge
    assert (forgets.first.measure, forgets.second.measure) == ("a_fast", "delta")
    assert forgets.verdict == "knowledge first"
    assert forgets.first.certain == 2
    reasons = order_of_events(SIZES, planted(fixes=EARLY)).knowledge
    assert reasons.verdict == "reasoning first"
    assert reasons.first.certain is None
    nothing = order_of_events(SIZES, planted(corrects=0.05, known=0.6)).knowledge
    assert nothing.verdict == "cannot tell here"
    assert "gains nothing from thinking" in nothing.note


def test_equal_slopes_are_seldom_told_apart():
    """Both change by as much at each size, in rates of unequally many questions: no order, in 60 runs."""
    slope = (0.0, 0.03, 0.06, 0.09, 0.12, 0.15)
    rng = np.random.default_rng(3)
    told = 0
    for run in range(60):
        fast = np.tile(rng.random(240) < 0.3, (6, 1))
        chance = np.where(fast, 0.8 - np.array(slope)[:, None], 0.4 - np.array(slope)[:, None])
        answers = Answers("a", fast, rng.random(240) < chance, np.arange(240))
        told += order_of_events(SIZES, answers, seed=run).overthinking.verdict != "cannot tell here"
    assert told <= 6


def test_changes_are_those_of_the_rates_and_hold_together():
    answers = planted(EARLY, LATE, questions=300)
    found = order_of_events(SIZES, answers)
    alone = list(map(str, range(300)))
    before, after = (
        thinking_scores(answers.fast_right[row].tolist(), answers.slow_right[row].tolist(), alone) for row in (0, 4)
    )
    row = found.sizes[3]
    assert row.size == 8
    for name in ("r_o", "r_c", "a_fast", "delta"):
        change = getattr(after, name).estimate - getattr(before, name).estimate
        assert getattr(row, name).estimate == pytest.approx(change, abs=1e-12)
    assert (found.full.n, row.counts.n, found.questions) == (300, 300, 300)
    rng = np.random.default_rng(1)
    held = 0
    for run in range(60):
        fast = rng.random((6, 120)) < 0.5
        slow = rng.random((6, 120)) < 0.5
        still = order_of_events(SIZES, Answers("a", fast, slow, np.arange(120) // 2), seed=run)
        held += all(size.r_o.low <= 0 <= size.r_o.high for size in still.sizes)
    assert held >= 52


def test_passages_are_drawn_whole():
    alone, shared = (order_of_events(SIZES, planted(EARLY, questions=400, each=each)) for each in (1, 8))
    widths = [each.sizes[1].r_o.high - each.sizes[1].r_o.low for each in (alone, shared)]
    assert widths[1] > 2 * widths[0]


def test_a_rate_of_few_questions_is_none():
    found = order_of_events(SIZES, planted(EARLY, LATE, known=0.008))
    assert {size.r_o for size in found.sizes} == {None}
    assert found.overthinking.verdict == "cannot tell here"
    assert found.overthinking.note == "too few questions for a rate of overthinking"
    assert found.sizes[0].r_c is not None
    assert found.overthinking.second.reached == 8
    assert np.isnan([found.overthinking.first_earlier, found.overthinking.second_earlier]).all()
    assert (
        json.loads(json.dumps(found.model_dump(mode="json"), allow_nan=False))["overthinking"]["first_earlier"] is None
    )
    passage = order_of_events(SIZES, planted(EARLY, questions=60, each=60))
    assert {passage.overthinking.note, passage.knowledge.note} == {"all questions share one passage"}
    assert {size.a_fast for size in passage.sizes} == {None}


def test_a_change_counts_from_where_it_stays():
    nan = np.nan
    changes = np.array([[0.1, 0, 0.1, 0.1], [0.1, nan, 0.1, 0.1], [nan, 0.3 - 0.25, 0.1, nan], [0.1, 0.1, 0.1, 0]])
    assert first_beyond(changes, 0.05).tolist() == [2, 0, 1, 4]


@pytest.mark.parametrize(
    ("sizes", "why"), [((1, 2, 3, 4, 5, 6), "0 and then grow"), ((0, 2, 2, 3, 4, 5), "grow"), ((0, 2), "2 sizes")]
)
def test_what_does_not_go_together_is_refused(sizes, why):
    with pytest.raises(ValueError, match=why):
        order_of_events(sizes, planted())


def test_a_result_is_read_back_as_it_was_written():
    found = order_of_events(SIZES, planted(EARLY, LATE, questions=200))
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert Asymmetry.model_validate_json(text) == found
