"""The search for the best patch at one place: objectives, forms and ridges, tried on text that none was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from heal.patching.least_squares import Sums, solve, solve_map

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # shares of the mean of gram's diagonal
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # what the massive tokens count together, all others together being 1
_MIDDLE = 0.3
_SHARED = ("capped", "cosine")  # the objectives that set the massive tokens' share


@dataclass(frozen=True)
class Candidate:
    """One patch that was tried. `share` is None where the objective sets none.

    ridge: share of the mean of gram's diagonal. share: what the massive tokens count together, all others being 1.
    loss: on the text set apart for the choice, nats per token. left_over: share of the weighted squares that stays.
    """

    layer: int
    kind: str
    objective: str
    ridge: float
    share: float | None
    loss: float = float("inf")
    left_over: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Parts:
    """The sums over ordinary tokens and over massive ones, for one objective."""

    ordinary: Sums
    massive: Sums

    def whole(self, share: float | None) -> Sums:
        """All tokens; the massive ones count together `share` times what the others do, or each as it is if None."""
        if share is None or not self.massive.tokens:
            return self.ordinary.mixed(self.massive, 1.0)
        return self.ordinary.mixed(self.massive, share * self.ordinary.tokens / self.massive.tokens)


class Search:
    """Tries changes at one place and remembers the best."""

    def __init__(
        self, layer: int, parts: Mapping[str, Parts], weight: torch.Tensor, measure: Callable[[torch.Tensor], float]
    ) -> None:
        """
        Args:
            parts: objective -> sums over the text to fit.
            weight: the projection's matrix, (D, F).
            measure: loss with a change of (D, F), nats per token.
        """
        self.layer, self.parts, self.weight, self.measure = layer, parts, weight, measure
        self.tried: list[Candidate] = []
        self.best: Candidate | None = None
        self.change: torch.Tensor | None = None

    def run(self, kind: str, ridge: float | None) -> tuple[Candidate, torch.Tensor]:
        """Each objective at middling settings, then share and ridge of the best; `auto`: the other kind too."""
        first = "matrix" if kind == "auto" else kind
        at = _MIDDLE if ridge is None else ridge
        for objective, parts in self.parts.items():
            shared = objective in _SHARED and parts.massive.tokens > 0
            self._try(Candidate(self.layer, first, objective, at, _MIDDLE if shared else None))
        assert self.best is not None
        assert self.change is not None
        if self.best.share is not None:
            self._climb(SHARES, lambda begin, value: replace(begin, share=value))
        if ridge is None:
            self._climb(RIDGES, lambda begin, value: replace(begin, ridge=value))
        if kind == "auto":
            self._try(replace(self.best, kind="map"))
        return self.best, self.change

    @staticmethod
    def most(objectives: int, kind: str, ridge: float | None) -> int:
        """The most candidates that a run can try."""
        ladder = len(RIDGES) - 1 if ridge is None else 0
        return objectives + len(SHARES) - 1 + ladder + (kind == "auto")

    def _climb(self, ladder: tuple[float, ...], at: Callable[[Candidate, float], Candidate]) -> None:
        """Up and down a ladder of settings for as long as the loss falls."""
        assert self.best is not None
        begin = self.best
        for step in (1, -1):
            place = ladder.index(_MIDDLE)
            while 0 <= place + step < len(ladder):
                place += step
                if not self._try(at(begin, ladder[place])):
                    break

    def _try(self, wanted: Candidate) -> bool:
        """Whether it is the best so far."""
        sums = self.parts[wanted.objective].whole(wanted.share)
        change = solved(sums, self.weight, wanted.kind, wanted.ridge)
        found = replace(wanted, loss=self.measure(change), left_over=sums.left_over(change))
        self.tried.append(found)
        better = self.best is None or found.loss < self.best.loss
        if better:
            self.best, self.change = found, change
        return better


def solved(sums: Sums, weight: torch.Tensor, kind: str, ridge: float) -> torch.Tensor:
    """The change of (D, F) that one candidate makes."""
    if kind == "map":
        return solve_map(sums, weight, ridge=ridge)
    return solve(sums, ridge=ridge)
