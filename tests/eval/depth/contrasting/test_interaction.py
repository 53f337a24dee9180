"""Depth against domain: planted truths, what does not matter, and coverage by simulation."""

import json
import math

import numpy as np
import pytest

from eval.depth.contrasting.contrasts import Interaction, in_words
from eval.depth.contrasting.interaction import (
    DESTROYED,
    DomainCosts,
    deep_beyond_shallow,
    depth_interaction,
    destroyed,
    measure_interaction,
)
from prune.common.intervals import Redraws

BLOCKS = 12
DEPTHS = (np.arange(BLOCKS) + 0.5) / BLOCKS
SHALLOW, DEEP = DEPTHS < 1 / 3, DEPTHS > 2 / 3
REACH = DEPTHS[DEEP].mean() - DEPTHS[SHALLOW].mean()


def planted(rng, name, tilt=0.0, *, questions=60, each=2, scale=1.0, noise=1.0, level=1.0):
    """Costs whose mean over questions is `scale` * (level of a falling profile, tilted); noise shared in passages.

    A question's size is heavy-tailed, and independent of its profile, so relative costs do not change with it.
    """
    profile = level * (1.5 - DEPTHS) + tilt * (DEPTHS - 0.5)
    clusters = np.repeat(np.arange(questions // each), each)
    shared = rng.normal(0, noise / 2, (BLOCKS, clusters[-1] + 1))[:, clusters]
    size = np.exp(rng.normal(0, 0.5, clusters[-1] + 1))[clusters]
    costs = scale * size * (profile[:, None] + shared + rng.normal(0, noise, (BLOCKS, clusters.size)))
    return DomainCosts(name, costs, clusters)


def test_coverage_is_that_of_the_interval_and_a_null_is_called_at_five_percent():
    """200 runs: the Monte-Carlo error of a share of 95 % is 1.5 points, of one of 5 % among the 100 nulls 2.2."""
    rng = np.random.default_rng(5)
    held, called, together = [], [], []
    for run in range(200):
        tilt = 0.4 * (run % 2)  # every other one is a null
        first = planted(rng, "mathematics", tilt, scale=8.0)
        second = planted(rng, "medicine", questions=48)
        found = depth_interaction(first, second, DEPTHS, resamples=200, seed=run)
        held.append(found.relative.value.low <= tilt * REACH <= found.relative.value.high)
        together.append(all(b.difference.low <= tilt * (b.depth - 0.5) <= b.difference.high for b in found.profile))
        if not tilt:
            called.append(found.verdict != "cannot tell here")
    assert 0.92 <= np.mean(held) <= 0.98
    assert 0.92 <= np.mean(together) <= 1
    assert 0.01 <= np.mean(called) <= 0.1


@pytest.mark.parametrize(("tilt", "verdict"), [(1.2, "seen"), (-1.2, "the reverse")])
def test_a_planted_interaction_is_seen(tilt, verdict):
    rng = np.random.default_rng(1)
    first, second = planted(rng, "mathematics", tilt, scale=5.0, noise=0.6), planted(rng, "medicine", noise=0.6)
    found = depth_interaction(first, second, DEPTHS, seed=0)
    assert [c.verdict for c in (found.relative, found.all_blocks, found.rank)] == [verdict] * 3
    assert found.relative_crossover.verdict == verdict
    assert found.relative.value.estimate == pytest.approx(tilt * REACH, abs=0.35)
    assert found.relative.questions_needed is None
    assert (found.questions, found.clusters, found.blocks) == ((60, 60), (30, 30), (4, 4))
    again = depth_interaction(second, first, DEPTHS, seed=0)
    assert again.relative.value.estimate == pytest.approx(-found.relative.value.estimate)
    assert depth_interaction(first, second, DEPTHS, seed=0) == found


def test_the_numbers_are_those_of_the_formulas():
    rng = np.random.default_rng(2)
    sides = [planted(rng, "mathematics", 0.5), planted(rng, "medicine", questions=40)]
    found = depth_interaction(*sides, DEPTHS, seed=0)
    means = [side.costs.mean(1) for side in sides]
    relative = [mean / mean.mean() for mean in means]
    for contrast, profile in ((found.relative, relative), (found.bits, means)):
        deep_less_shallow = [p[DEEP].mean() - p[SHALLOW].mean() for p in profile]
        assert contrast.value.estimate == pytest.approx(deep_less_shallow[0] - deep_less_shallow[1])
    deep = found.relative_crossover.deep
    assert deep.first.estimate == pytest.approx(relative[0][DEEP].mean())
    assert deep.difference.estimate == pytest.approx(deep.first.estimate - deep.second.estimate)
    assert [block.second.estimate for block in found.profile] == pytest.approx(relative[1])
    pairs = [
        np.mean([[(d > s) + (d == s) / 2 for s in q[SHALLOW]] for d in q[DEEP]]) for side in sides for q in side.costs.T
    ]
    assert found.rank.value.estimate == pytest.approx(np.mean(pairs[:60]) - np.mean(pairs[60:]))


def test_a_domain_that_loses_more_everywhere_is_no_interaction():
    """In bits the deep blocks cost it less beyond the shallow ones; where the damage sits is the same."""
    rng = np.random.default_rng(3)
    first, second = planted(rng, "mathematics", scale=20.0, noise=0.2), planted(rng, "medicine", noise=0.2)
    found = depth_interaction(first, second, DEPTHS, seed=0)
    assert found.bits.verdict == "the reverse"
    assert found.bits_crossover.verdict == "not seen"  # also shallow blocks cost it more
    assert found.verdict == "cannot tell here"
    assert found.relative.questions_needed is None or min(found.relative.questions_needed) > 60
    in_nats = DomainCosts("mathematics", first.costs * math.log(2), first.clusters)
    value = depth_interaction(in_nats, second, DEPTHS, seed=0).relative.value
    assert (value.low, value.high) == pytest.approx((found.relative.value.low, found.relative.value.high))


def test_the_crossover_needs_both_regions():
    """Shallow blocks cost both the same in bits, deep ones the first more: an interaction, and no crossover."""
    first = planted(np.random.default_rng(4), "mathematics", noise=0.3)
    second = planted(np.random.default_rng(4), "medicine", noise=0.3)
    first.costs[DEEP] += 1.0
    found = depth_interaction(first, second, DEPTHS, seed=0)
    assert found.bits.verdict == "seen"
    assert found.bits_crossover.deep.difference.low > 0
    assert found.bits_crossover.verdict == "cannot tell here"
    redraws = [
        Redraws.of(side.clusters, resamples=2000, seed=[0, number]) for number, side in enumerate((first, second))
    ]
    means = [each.means(side.costs[DEEP].mean(0)) for each, side in zip(redraws, (first, second), strict=True)]
    alone, joint = (means[0] - means[1]).intervals()[0], found.bits_crossover.deep.difference
    assert 1.05 < (joint.high - joint.low) / (alone.high - alone.low) < 1.3  # two intervals that hold together
    second.costs[SHALLOW] += 2.0
    assert depth_interaction(first, second, DEPTHS, seed=0).bits_crossover.verdict == "seen"


def test_a_block_that_destroys_both_domains_is_left_out_and_told():
    rng = np.random.default_rng(6)
    first, second = planted(rng, "mathematics", 1.0), planted(rng, "medicine")
    before = depth_interaction(first, second, DEPTHS, seed=0)
    first.costs[0] += 300.0 + rng.normal(0, 100, 60)
    second.costs[0] += 500.0
    found = depth_interaction(first, second, DEPTHS, seed=0)
    assert found.left_out == (pytest.approx(DEPTHS[0]),)
    assert found.blocks == (3, 4)
    assert min(found.left_out_share) > 0.9
    assert found.verdict == before.verdict == "seen"
    assert found.all_blocks.value.estimate != pytest.approx(found.relative.value.estimate, abs=0.2)
    assert found.rank.value.estimate == pytest.approx(before.rank.value.estimate, abs=0.1)
    assert len(found.profile) == BLOCKS - 1


def test_a_block_that_destroys_one_domain_alone_stays():
    mean = np.ones(5)
    one, both = mean.copy(), mean.copy()
    one[0], both[0] = DESTROYED * 2, DESTROYED * 1.01
    assert not destroyed(one, mean).any()
    assert destroyed(one, both).tolist() == [True, False, False, False, False]
    assert not destroyed(-one, one).any()


def test_passages_are_drawn_whole():
    """Each question four times over is no more than it was, if the four share a passage."""
    rng = np.random.default_rng(7)
    sides = [planted(rng, name, each=1) for name in ("mathematics", "medicine")]

    def width(copies, own):
        parts = [
            DomainCosts(
                side.name,
                np.tile(side.costs, copies),
                np.arange(60 * copies) if own else np.tile(side.clusters, copies),
            )
            for side in sides
        ]
        value = depth_interaction(*parts, DEPTHS, seed=0).relative.value
        return value.high - value.low

    assert width(4, False) == pytest.approx(width(1, True), rel=1e-6)
    assert width(4, True) == pytest.approx(width(1, True) / 2, rel=0.15)


def test_measures_of_the_same_questions_are_paired():
    """What both measures share of a question does not widen the difference."""
    rng = np.random.default_rng(8)
    recall = planted(rng, "recall", noise=2.0, questions=100, level=3.0)
    tilted = recall.costs + 0.5 * (DEPTHS - 0.5)[:, None]
    chain = DomainCosts("writing a chain", tilted, recall.clusters)
    found = measure_interaction(chain, recall, DEPTHS, seed=0)
    assert found.paired
    assert found.verdict == "seen"
    apart = depth_interaction(chain, recall, DEPTHS, seed=0)
    paired, alone = (each.relative.value.high - each.relative.value.low for each in (found, apart))
    assert paired < alone / 3
    deep_less_shallow = [side.costs[DEEP].mean(0) - side.costs[SHALLOW].mean(0) for side in (chain, recall)]
    parts = [rows for side, over in zip((chain, recall), deep_less_shallow, strict=True) for rows in (over, side.costs)]
    redraws = Redraws.of(recall.clusters, resamples=2000, seed=[0, 0])
    by_hand = redraws.ratios(parts[0], parts[1].mean(0), parts[2], parts[3].mean(0)).intervals()[0]
    assert (found.relative.value.low, found.relative.value.high) == pytest.approx((by_hand.low, by_hand.high))
    same = measure_interaction(recall, recall, DEPTHS, seed=0).relative
    assert (same.value.low, same.value.high) == pytest.approx((0, 0), abs=1e-9)
    with pytest.raises(ValueError, match="same questions"):
        measure_interaction(chain, planted(rng, "recall", questions=80), DEPTHS, seed=0)


def test_the_number_of_questions_that_would_tell_does():
    """As many questions as are said to be needed, were the estimate true, see it in about 80 % of runs."""
    rng = np.random.default_rng(9)
    found = depth_interaction(planted(rng, "mathematics", 0.5), planted(rng, "medicine"), DEPTHS, seed=0)
    assert found.verdict == "cannot tell here"
    needed = found.relative.questions_needed
    arm = found.relative.value.estimate - found.relative.value.low
    assert needed[0] == needed[1] == math.ceil(60 * (1.429 * arm / found.relative.value.estimate) ** 2)
    assert found.relative.detectable == pytest.approx(1.4294 * arm, rel=1e-3)
    more = -(-needed[0] // 2) * 2
    tilt = found.relative.value.estimate / REACH
    seen = [
        depth_interaction(
            planted(rng, "a", tilt, questions=more), planted(rng, "b", questions=more), DEPTHS, resamples=200, seed=run
        ).verdict
        == "seen"
        for run in range(80)
    ]
    assert 0.6 <= np.mean(seen) <= 0.95


def test_what_cannot_be_told_says_why():
    rng = np.random.default_rng(10)
    first, second = planted(rng, "mathematics"), planted(rng, "medicine")
    idle = DomainCosts("idle", second.costs - second.costs.mean(), second.clusters)
    found = depth_interaction(first, idle, DEPTHS, seed=0)
    assert found.relative.value is None
    assert "does not cost idle anything" in found.relative.note
    assert found.bits.value is not None
    assert (found.relative_crossover, found.profile) == (None, ())
    middle = depth_interaction(first, second, np.full(BLOCKS, 0.5), seed=0)
    assert middle.rank.note == "no shallow and no deep block to compare"
    for questions in (8, 2):  # of four passages, of one
        few = depth_interaction(first, planted(rng, "few", questions=questions), DEPTHS, seed=0)
        assert "fewer than 8 questions" in few.relative.note
        assert few.relative == few.bits == few.rank
    still = DomainCosts("still", np.ones((BLOCKS, 60)), first.clusters)
    nothing = depth_interaction(still, still, DEPTHS, seed=0).relative
    assert nothing.verdict == "cannot tell here"
    assert "the estimate is 0" in nothing.note


@pytest.mark.parametrize(
    ("costs", "clusters", "why"),
    [
        (np.zeros((BLOCKS, 3)), np.arange(4), "shape"),
        (np.zeros((BLOCKS - 1, 3)), np.arange(3), "12 blocks"),
        (np.full((BLOCKS, 3), np.nan), np.arange(3), "no number"),
        (np.ones((BLOCKS, 0)), np.zeros(0), "no question"),
    ],
)
def test_what_does_not_go_together_is_refused(costs, clusters, why):
    good = DomainCosts("good", np.ones((BLOCKS, 20)), np.arange(20))
    with pytest.raises(ValueError, match=why):
        depth_interaction(good, DomainCosts("bad", costs, clusters), DEPTHS, seed=0)


def test_a_result_is_read_back_as_it_was_written():
    rng = np.random.default_rng(11)
    found = depth_interaction(planted(rng, "mathematics", 1.0), planted(rng, "medicine"), DEPTHS, seed=0)
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert Interaction.model_validate_json(text) == found


def test_the_answer_in_words():
    rng = np.random.default_rng(12)
    first, second = planted(rng, "mathematics", 3.0, noise=0.1), planted(rng, "medicine", noise=0.1)
    said = in_words(depth_interaction(first, second, DEPTHS, seed=0))
    assert said.startswith("Deep blocks cost mathematics more than medicine, shallow blocks the reverse: seen (+")
    said = in_words(depth_interaction(planted(rng, "a"), planted(rng, "b"), DEPTHS, seed=0))
    assert "cannot tell here" in said
    assert "would tell)." in said
    assert "does not cost idle anything" in in_words(
        depth_interaction(first, DomainCosts("idle", second.costs * 0, second.clusters), DEPTHS, seed=0)
    )


def test_ties_count_half():
    costs = np.array([[1.0, 1.0], [1.0, 5.0], [1.0, 3.0]])
    shares = deep_beyond_shallow(costs, np.array([True, False, False]), np.array([False, True, True]))
    assert shares.tolist() == [0.5, 1.0]
