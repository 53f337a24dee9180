"""Which blocks to try on text, how much text each try may take, and which wins: arithmetic alone.

A cascade: all starts (or as many as the budget bears) on little text, the better ones on more, the finalists on
most. What a try costs is counted in units of one layer run on one token; the LM head counts as the layers that it
has the weights of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHARES = (0.3, 0.25, 0.45)  # of the budget, for all starts, for twice as many as the finalists, for the finalists
PASSES = 1.5  # of the full model over the text: the budget
LEAST = 128  # tokens; on fewer, the first rung would tell noise from noise


def spread_starts(distances: Sequence[float], count: int) -> list[int]:
    """Up to `count` starts worth a try, best first: the minima of d(., n), then the middles of the widest gaps.

    Similarity is smooth in the start, so that the best four by d are four neighbours; the block that hurts least
    may stand in another valley, or in none.

    Args:
        distances: d(l, n) for the starts l = 0 .. that may be taken.
    """
    last = len(distances) - 1
    order = sorted(range(last + 1), key=lambda start: (distances[start], start))
    around = [distances[max(start - 1, 0) : start + 2] for start in range(last + 1)]
    spread = [start for start in order if distances[start] == min(around[start])][:count]
    while len(spread) < min(count, last + 1):
        left = [start for start in order if start not in spread]
        spread.append(max(left, key=lambda start: min(abs(start - other) for other in spread)))
    return spread


@dataclass(frozen=True)
class Prices:
    """layers: L. head: what the LM head costs a token, in layers. tokens: text of the budget."""

    layers: int
    head: float
    tokens: int

    @property
    def plain(self) -> float:
        """One plain pass of the full model, head included, over all the text."""
        return self.tokens * (self.layers + self.head)

    @property
    def budget(self) -> float:
        return PASSES * self.plain

    def per_token(self, dropped: Sequence[Sequence[int]]) -> float:
        """What one token costs with the full model and these variants, the part below their first drop shared."""
        tails = sum(self.layers - min(layers) - len(layers) for layers in dropped)
        return self.layers + tails + self.head * (len(dropped) + 1)


def rung_tokens(prices: Prices, dropped: Sequence[Sequence[int]], share: float) -> int:
    """How much text these variants can be run on for a share of the budget."""
    return int(share * prices.budget / prices.per_token(dropped))


def affordable(prices: Prices, ranked: Sequence[Sequence[int]], share: float, least: int = LEAST) -> int:
    """How many of `ranked` (best first) can be run on `least` tokens for a share of the budget; at least two."""
    count = len(ranked)
    while count > 2 and rung_tokens(prices, ranked[:count], share) < least:
        count -= 1
    return count


def survivors(kl: Sequence[float], keep: int, always: int) -> list[int]:
    """Indices of the `keep` least of `kl`, `always` among them, in rising order of kl."""
    order = sorted(range(len(kl)), key=lambda index: (kl[index], index))
    best = order[:keep]
    return best if always in best else [*best[: max(keep - 1, 0)], always]
