"""The search for the best patch at one place: objectives, forms and ridges, tried on text that none was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from heal.least_squares import Sums, solve, solve_map, solve_scale

_LADDER = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # ridges, as shares of the mean of gram's diagonal
_FIRST = 1e-2


@dataclass(frozen=True)
class Candidate:
    """One patch that was tried. `loss` is on the text set apart for the choice, nats per token."""

    layer: int
    kind: str
    objective: str
    ridge: float | None  # None where the form has no use for one
    loss: float
    left_over: float  # share of the weighted squares that it leaves

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def words(self) -> str:
        return f"{self.kind}, {self.objective}" + ("" if self.ridge is None else f", ridge {self.ridge:g}")


class Search:
    """Tries changes at one place and remembers the best."""

    def __init__(
        self, layer: int, sums: Mapping[str, Sums], weight: torch.Tensor, measure: Callable[[torch.Tensor], float]
    ) -> None:
        """
        Args:
            sums: objective -> sums over the text to fit.
            weight: the projection's matrix, (D, F).
            measure: loss with a change of (D, F), nats per token.
        """
        self.layer, self.sums, self.weight, self.measure = layer, sums, weight, measure
        self.tried: list[Candidate] = []
        self.best: Candidate | None = None
        self.change: torch.Tensor | None = None

    def run(self, kind: str, ridge: float | None) -> None:
        """Each objective at one ridge (a middling one if None), the ladder about the best; `auto`: other kinds too."""
        first = "matrix" if kind == "auto" else kind
        for name in self.sums:
            self._try(first, name, _FIRST if ridge is None else ridge)
        assert self.best is not None
        if ridge is None and self.best.ridge is not None:
            self._climb(first, self.best.objective)
        if kind == "auto":
            for other in ("map", "magnitude"):
                self._try(other, self.best.objective, _FIRST if ridge is None else ridge)

    def _climb(self, kind: str, objective: str) -> None:
        """Up and down the ladder of ridges for as long as the loss falls."""
        for step in (1, -1):
            place = _LADDER.index(_FIRST)
            while 0 <= place + step < len(_LADDER):
                place += step
                if not self._try(kind, objective, _LADDER[place]):
                    break

    def _try(self, kind: str, objective: str, ridge: float) -> bool:
        """Whether it is the best so far."""
        change = solved(self.sums[objective], self.weight, kind, ridge)
        found = Candidate(
            self.layer,
            kind,
            objective,
            None if kind == "magnitude" else ridge,
            self.measure(change),
            self.sums[objective].left_over(change),
        )
        self.tried.append(found)
        better = self.best is None or found.loss < self.best.loss
        if better:
            self.best, self.change = found, change
        return better


def solved(sums: Sums, weight: torch.Tensor, kind: str, ridge: float) -> torch.Tensor:
    """The change of (D, F) that one candidate makes."""
    if kind == "magnitude":
        return solve_scale(sums, weight)
    if kind == "map":
        return solve_map(sums, weight, ridge=ridge)
    return solve(sums, ridge=ridge)
