"""One fold: sums over the text to fit, a search among candidates, and the change left in the pruned model's track."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from heal.patching.least_squares import Sums, aim, massive, solve, solve_map
from heal.patching.places import Place, find_place

if TYPE_CHECKING:
    from heal.patching.side_by_side import Tracks
    from heal.text.packing import Row


RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # shares of the mean of gram's diagonal
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # what the massive tokens count together, all others together being 1
_MIDDLE = 0.3
_SHARED = ("capped", "cosine")  # the objectives that set the massive tokens' share


@dataclass(frozen=True)
class Fold:
    """One projection to be changed: x[target] of the full model is what its layer's output should be."""

    place: Place
    target: int

    def to_json(self) -> dict[str, Any]:
        place = self.place
        return {
            "layer": place.layer,
            "target": self.target,
            "module": place.path,
            "scale": place.scale,
            "bias": place.bias,
        }


@dataclass(frozen=True)
class Folded:
    """What was tried at one place. `chosen` is None where nothing was better than no change.

    Losses are on the text that is apart from what was fitted, nats per token.
    """

    loss_without: float
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None

    def to_json(self) -> dict[str, Any]:
        return {
            "loss_without": self.loss_without,
            "chosen": None if self.chosen is None else self.chosen.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }


def find_folds(tracks: Tracks, blocks: Sequence[tuple[int, int]], row: Row) -> list[Fold]:
    """A fold before each dropped block (start, n), from the bottom; see `find_place` for what it refuses.

    Args:
        row: text to try the places on.
    """
    ids = torch.from_numpy(row.tokens[:32]).long()[None].to(tracks.model.device)
    return [Fold(find_place(tracks.model, tracks.layers, start - 1, ids), start + n) for start, n in blocks]


def solve_fold(
    tracks: Tracks,
    fold: Fold,
    rows: Sequence[Row],
    spare: Sequence[Row],
    *,
    objectives: Sequence[str],
    kind: str,
    ridge: float | None,
    batch_size: int,
    advance: Callable[[int, str], None] = lambda rows, words: None,
) -> Folded:
    """Find the best change at one place. Where it is better than none, it stays in `tracks`.

    Args:
        rows: text to fit.
        spare: other text, to choose by.
        objectives: see `aim`.
        kind, ridge: see `Search.run`.
        advance: told how many rows were run, and a few words.
    """
    place, layer = fold.place, fold.place.layer
    matrix = place.matrix(tracks.layers)
    outputs, features = matrix.shape
    parts = {name: Parts(*(Sums.empty(features, outputs, device=matrix.device) for _ in "12")) for name in objectives}
    typical = 0.0
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        taken = tracks.take(part, place, fold.target)
        typical = typical or float(taken.target.float().norm(dim=1).median())
        apart = massive(taken.target, typical)
        for name, found in parts.items():
            errors, counts = aim(taken.state, taken.target, name, typical)
            found.ordinary.add(taken.features, errors / place.scale, counts * ~apart)
            found.massive.add(taken.features, errors / place.scale, counts * apart)
        advance(len(part), f"layer {layer}: reading")
    held = list(tracks.hold(spare, place, batch_size))
    plain = tracks.loss(held, place, None)
    advance(2 * len(spare), f"layer {layer}: loss {plain:.3f} without a patch")

    def measure(change: torch.Tensor) -> float:
        loss = tracks.loss(held, place, change)
        advance(len(spare), f"layer {layer}: candidate {len(search.tried) + 1}, loss {loss:.3f} ({plain:.3f} without)")
        return loss

    search = Search(layer, parts, matrix, measure)
    best, change = search.run(kind, ridge)
    if best.loss < plain:
        tracks.changes[layer] = (place, change)
    return Folded(plain, tuple(search.tried), best if best.loss < plain else None)


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
