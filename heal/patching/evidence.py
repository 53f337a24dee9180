"""What the text to fit shows at one place, and the sums that a candidate is solved from: one large matrix at a time.

Features, states and targets are kept as the model gives them, in its own dtype. The sums of one objective are made of
them when they are asked for, and are given up before the next ones are made. Massive tokens are few: what they add is
made of their rows anew for every share that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from heal.patching.least_squares import ConsumedError, Sums, aim, massive, solve, solve_map


@dataclass(frozen=True)
class Taken:
    """What one batch shows at a place of the pruned model, N tokens.

    features: (N, F), as `Place.featured` gives them. state: (N, D), the layer's output.
    target: (N, D), the state that the full model has where it should be.
    """

    features: torch.Tensor
    state: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True)
class Few:
    """Some tokens whose sums are made when needed: of each batch features (N, F), errors (N, D) and weights (N,)."""

    batches: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = ()

    @property
    def tokens(self) -> int:
        return sum(int((weights > 0).sum()) for _, _, weights in self.batches)


@dataclass(frozen=True)
class Parts:
    """The sums over ordinary tokens, and the massive ones, for one objective."""

    ordinary: Sums
    massive: Few

    def whole(self, share: float | None) -> Sums:
        """All tokens; the massive ones count together `share` times what the others do, or each as it is if None."""
        count = self.massive.tokens
        factor = 1.0 if share is None or not count else share * self.ordinary.tokens / count
        sums = self.ordinary.copy()
        for features, errors, weights in self.massive.batches:
            sums.add(features, errors, factor * weights)
        return sums

    def solved(self, weight: torch.Tensor, kind: str, ridge: float, share: float | None) -> tuple[torch.Tensor, float]:
        """The change of (D, F) that one candidate makes, and the share of the weighted squares that it leaves."""
        if kind == "map":
            change = solve_map(self.whole(share), weight, ridge=ridge)
        else:
            try:
                change = solve(self.whole(share), ridge=ridge, consume=True)
            except ConsumedError:
                change = solve(self.whole(share), ridge=ridge)
        return change, self.whole(share).left_over(change)


class Evidence:
    """All that was taken at one place."""

    def __init__(self, taken: Sequence[Taken], scale: float) -> None:
        """
        Args:
            taken: of every batch of the text to fit, in its order.
            scale: of the place, by which what its projection gives is multiplied.
        """
        self.taken, self.scale = taken, scale
        self.typical = float(taken[0].target.float().norm(dim=1).median())
        self._last: tuple[str, Parts] | None = None

    @property
    def massive(self) -> bool:
        """Whether any token is massive."""
        return any(bool(massive(part.target, self.typical).any()) for part in self.taken)

    def parts(self, objective: str) -> Parts:
        """The sums of one objective; those of another are given up."""
        if self._last is None or self._last[0] != objective:
            self._last = None
            self._last = objective, self._parts(objective)
        return self._last[1]

    def _parts(self, objective: str) -> Parts:
        first = self.taken[0]
        sums = Sums.empty(first.features.shape[1], first.state.shape[1], device=first.features.device)
        few = []
        for part in self.taken:
            apart = massive(part.target, self.typical)
            errors, counts = aim(part.state, part.target, objective, self.typical)
            errors = errors / self.scale
            sums.add(part.features, errors, counts * ~apart)
            if apart.any():
                few.append((part.features[apart], errors[apart], counts[apart]))
        return Parts(sums, Few(few))
