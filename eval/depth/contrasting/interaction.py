"""Does depth tell two domains apart: deep blocks cost the first more, shallow blocks the second? Pure arithmetic.

Notation. c_d(b, q): bits that question q of domain d loses without block b. m_d(b): its mean over the questions.
*Shallow* blocks have their middle in the first third of the layers, *deep* ones in the last third.

A loss in bits depends on how long and how certain the answers of a domain are, so a difference of bits mixes *how much*
a domain loses with *where* it loses it. The main question is about where. The relative cost

    p_d(b) = m_d(b) / mean over blocks of m_d        (1: as much as the domain's mean block)

does not change with the unit or the scale of a domain, and the contrast is

    D_d = mean over deep blocks of p_d - mean over shallow blocks of p_d,    contrast = D_first - D_second.

Three others stand beside it:

* in bits: the same with m_d in the place of p_d;
* with all blocks: as the main one, without leaving any out;
* by rank: r_d = chance that a deep block costs a question more than a shallow block costs the same question (ties count
  half; mean over questions, all pairs of blocks), contrast = r_first - r_second. It knows nothing of sizes, so that no
  block and no question can dominate it, and is the same in bits and in bits per byte. What is idiosyncratic in a
  question draws r_d towards a half, and more so in the domain of noisier questions.

Without the first layers most models are destroyed: such a block costs any question more than all others together, and
relative costs would be about it alone. So blocks that cost *both* domains over `DESTROYED` times their median block are
left out of the main contrast and of that in bits. Losses cannot be capped by a blind guess instead, since only few
measures have one, and a small model is near it from the start.

Blocks are fixed: the claim is about this model. Questions are a sample: they are drawn anew by clusters (Miller, arXiv
2411.00640), the domains independently, or together where two measures of the same questions are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.billing.statistics import POWERED, questions_factor
from eval.depth.contrasting.contrasts import (
    BlockCosts,
    Contrast,
    Crossover,
    CrossoverVerdict,
    Interaction,
    Region,
    Verdict,
)
from prune.common.intervals import Estimates, Interval, Redraws

DESTROYED = 10.0  # times the median block's cost, in both domains
SHALLOW, DEEP = 1 / 3, 2 / 3  # of the layers
FEWEST = 8  # clusters of a domain; fewer have no interval
MOST_QUESTIONS = 1_000_000  # a larger number would only say that there is nothing to see

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = tuple[Floats, Floats]  # what is summed over the questions, and what the sum is divided by


@dataclass(frozen=True)
class DomainCosts:
    """What the questions of a domain, or of a measure, lose without each block.

    Attributes:
        name: of the domain, or of the measure.
        costs: bits lost (without the block minus full model), shape (blocks, questions), of one measure.
        clusters: shape (questions,), the same for questions that share a passage.
    """

    name: str
    costs: Floats
    clusters: NDArray[np.int64]


def depth_interaction(
    first: DomainCosts, second: DomainCosts, depths: ArrayLike, *, resamples: int = 2000, seed: int
) -> Interaction:
    """Does removing deep blocks cost `first` more than `second`, and removing shallow blocks the reverse?

    Args:
        first, second: two domains, each with questions of its own, over the same blocks of one size.
        depths: shape (blocks,), the middle of each block over the number of layers, inside (0, 1).
        resamples: of the bootstrap.

    Raises:
        ValueError: shapes that do not go together, no question, costs that are no numbers.
    """
    return _interact(first, second, depths, False, resamples, seed)


def measure_interaction(
    first: DomainCosts, second: DomainCosts, depths: ArrayLike, *, resamples: int = 2000, seed: int
) -> Interaction:
    """The same of two measures of the same questions, such as writing a chain (first) against recall (second).

    Questions are in the same order in both, and are drawn together. The contrast in bits says something only if both
    measures have one unit.

    Raises:
        ValueError: as `depth_interaction`, or not the same clusters in both.
    """
    if not np.array_equal(first.clusters, second.clusters):
        raise ValueError(f"{first.name} and {second.name} are not of the same questions")
    return _interact(first, second, depths, True, resamples, seed)


@dataclass(frozen=True)
class _Pair:
    """Both domains over the same blocks: `blocks` takes part in the contrast, of these `shallow` and `deep`; (B,)."""

    first: DomainCosts
    second: DomainCosts
    redraws: tuple[Redraws, Redraws]
    paired: bool
    blocks: Flags
    shallow: Flags
    deep: Flags

    def less(self, first: Rows, second: Rows) -> Estimates:
        """The first domain's ratios less the second's; each of (sums over, sums under) per question, (K, Q)."""
        if self.paired:
            return self.redraws[0].ratios(*first, *second)
        return self.redraws[0].ratios(*first) - self.redraws[1].ratios(*second)

    @property
    def missing(self) -> str:
        """Why there is nothing to contrast; empty where there is something."""
        for side, redraws in zip((self.first, self.second), self.redraws, strict=True):
            if redraws.clusters < FEWEST:
                return f"{side.name} has fewer than {FEWEST} questions that share no passage"
        regions = (("shallow", self.shallow), ("deep", self.deep))
        gone = [name for name, region in regions if not region.any()]
        return f"no {' and no '.join(gone)} block to compare" if gone else ""

    @property
    def no_profile(self) -> str:
        """Why costs are relative to nothing; empty where they are not. A ratio to what may be 0 has no interval."""
        if self.missing:
            return self.missing
        for side, redraws in zip((self.first, self.second), self.redraws, strict=True):
            if redraws.means(side.costs[self.blocks].mean(0)).intervals()[0].low <= 0:
                return f"the mean block does not cost {side.name} anything for certain, so no cost is relative to it"
        return ""


def _interact(
    first: DomainCosts, second: DomainCosts, depths: ArrayLike, paired: bool, resamples: int, seed: int
) -> Interaction:
    places = np.asarray(depths, dtype=np.float64)
    first, second = _checked(first, places), _checked(second, places)
    shallow, deep = places < SHALLOW, places > DEEP
    gone = destroyed(first.costs.mean(1), second.costs.mean(1))
    redraws = Redraws.of(first.clusters, resamples=resamples, seed=[seed, 0])
    other = redraws if paired else Redraws.of(second.clusters, resamples=resamples, seed=[seed, 1])
    whole = _Pair(first, second, (redraws, other), paired, np.ones_like(gone), shallow, deep)
    kept = replace(whole, blocks=~gone, shallow=shallow & ~gone, deep=deep & ~gone)
    reason = kept.no_profile
    relative = _contrast(kept, reason, _relative)
    return Interaction(
        first=first.name,
        second=second.name,
        paired=paired,
        questions=(first.costs.shape[1], second.costs.shape[1]),
        clusters=(redraws.clusters, other.clusters),
        blocks=(int(kept.shallow.sum()), int(kept.deep.sum())),
        left_out=tuple(places[gone].tolist()),
        left_out_share=_share(first, second, gone),
        relative=relative,
        bits=_contrast(kept, kept.missing, _bits),
        all_blocks=_contrast(whole, whole.no_profile, _relative) if gone.any() else relative,
        rank=_contrast(whole, whole.missing, _rank),
        relative_crossover=None if reason else _crossover(kept, _relative),
        bits_crossover=None if kept.missing else _crossover(kept, _bits),
        profile=() if reason else _profile(kept, places),
    )


def _checked(side: DomainCosts, depths: Floats) -> DomainCosts:
    costs = np.asarray(side.costs, dtype=np.float64)
    if costs.ndim != 2 or costs.shape != (depths.size, len(side.clusters)):
        raise ValueError(f"{side.name}: costs of shape {costs.shape} for {depths.size} blocks")
    if not costs.size:
        raise ValueError(f"{side.name}: no question, or no block")
    if not np.isfinite(costs).all():
        raise ValueError(f"{side.name}: a cost is no number")
    return replace(side, costs=costs)


def _share(first: DomainCosts, second: DomainCosts, gone: Flags) -> tuple[float, float] | None:
    """What the blocks left out make up of each domain's summed cost."""
    sums = [side.costs.mean(1) for side in (first, second)]
    if min(float(each.sum()) for each in sums) <= 0:
        return None
    return float(sums[0][gone].sum() / sums[0].sum()), float(sums[1][gone].sum() / sums[1].sum())


def destroyed(first: Floats, second: Floats) -> Flags:
    """Blocks whose mean cost is over `DESTROYED` times that of the median block in both domains; shapes (blocks,).

    None where the median block costs a domain nothing, as then there is no measure of much.
    """
    middles = float(np.median(first)), float(np.median(second))
    if min(middles) <= 0:
        return np.zeros(first.shape, dtype=np.bool_)
    beyond: Flags = np.minimum(first / middles[0], second / middles[1]) > DESTROYED
    return beyond


def deep_beyond_shallow(costs: Floats, shallow: Flags, deep: Flags) -> Floats:
    """For each question the share of pairs of a deep and a shallow block of which the deep one costs it more.

    Ties count half.

    Args:
        costs: shape (blocks, questions).
        shallow, deep: shape (blocks,), one block each at least.
    """
    below = costs[shallow]
    won = sum(((row > below).sum(0) + 0.5 * (row == below).sum(0) for row in costs[deep]), np.zeros(costs.shape[1]))
    share: Floats = won / (below.shape[0] * int(deep.sum()))
    return share


# What a contrast is made of: for each question of a domain a number for deep and one for shallow blocks, whose sums
# over the questions are divided by the sum of the third.
_Cells = tuple[Floats, Floats, Floats]


def _bits(side: DomainCosts, pair: _Pair) -> _Cells:
    """Mean costs."""
    return side.costs[pair.deep].mean(0), side.costs[pair.shallow].mean(0), np.ones(side.costs.shape[1])


def _relative(side: DomainCosts, pair: _Pair) -> _Cells:
    """Mean costs over that of the mean block."""
    return side.costs[pair.deep].mean(0), side.costs[pair.shallow].mean(0), side.costs[pair.blocks].mean(0)


def _rank(side: DomainCosts, pair: _Pair) -> _Cells:
    """The chance that a deep block costs more, which has no cells of its own."""
    chance = deep_beyond_shallow(side.costs, pair.shallow, pair.deep)
    return chance, np.zeros_like(chance), np.ones_like(chance)


_Scale = Callable[[DomainCosts, _Pair], _Cells]


def _contrast(pair: _Pair, reason: str, scale: _Scale) -> Contrast:
    """Deep less shallow, first less second; nothing if there is a reason for it."""
    if reason:
        return Contrast(value=None, verdict="cannot tell here", detectable=None, questions_needed=None, note=reason)
    cells = [scale(side, pair) for side in (pair.first, pair.second)]
    rows = [(deep - shallow, under) for deep, shallow, under in cells]
    value = pair.less(rows[0], rows[1]).intervals()[0]
    verdict: Verdict = "seen" if value.low > 0 else "the reverse" if value.high < 0 else "cannot tell here"
    needed, note = None, ""
    if verdict == "cannot tell here":
        needed, note = _needed(value, pair.first.costs.shape[1], pair.second.costs.shape[1])
    detectable = POWERED * (value.high - value.low) / 2
    return Contrast(value=value, verdict=verdict, detectable=detectable, questions_needed=needed, note=note)


def _needed(value: Interval, first: int, second: int) -> tuple[tuple[int, int] | None, str]:
    factor = questions_factor(value)
    if factor is None:
        return None, "the estimate is 0, so no number of questions would show it"
    needed = math.ceil(first * factor), math.ceil(second * factor)
    if max(needed) > MOST_QUESTIONS:
        return None, f"the estimate is so near 0 that over {MOST_QUESTIONS:,} questions would be needed"
    return needed, ""


def _crossover(pair: _Pair, scale: _Scale) -> Crossover:
    rows = []
    for side in (pair.first, pair.second):
        deep, shallow, under = scale(side, pair)
        rows.append((np.stack([deep, shallow]), np.stack([under, under])))
    sides = [redraws.ratios(*row).intervals() for redraws, row in zip(pair.redraws, rows, strict=True)]
    differences = pair.less(rows[0], rows[1]).intervals(joint=True)
    regions = [
        Region(blocks=int(blocks.sum()), first=first, second=second, difference=difference)
        for blocks, first, second, difference in zip((pair.deep, pair.shallow), *sides, differences, strict=True)
    ]
    return Crossover(deep=regions[0], shallow=regions[1], verdict=_crossed(differences[0], differences[1].negated))


def _crossed(deep: Interval, shallow: Interval) -> CrossoverVerdict:
    """From what each region has for the claim: above 0 it holds, below 0 its contrary does."""
    if min(deep.low, shallow.low) > 0:
        return "seen"
    if max(deep.high, shallow.high) < 0:
        return "the reverse"
    return "not seen" if min(deep.high, shallow.high) < 0 else "cannot tell here"


def _profile(pair: _Pair, depths: Floats) -> tuple[BlockCosts, ...]:
    order = [int(block) for block in np.argsort(depths, kind="stable") if pair.blocks[block]]
    rows = []
    for side in (pair.first, pair.second):
        costs = side.costs[order]
        rows.append((costs, np.broadcast_to(costs.mean(0), costs.shape)))
    sides = [redraws.ratios(*row).intervals() for redraws, row in zip(pair.redraws, rows, strict=True)]
    joint = pair.less(rows[0], rows[1]).intervals(joint=True)
    return tuple(
        BlockCosts(depth=float(depths[block]), first=first, second=second, difference=difference)
        for block, first, second, difference in zip(order, *sides, joint, strict=True)
    )
