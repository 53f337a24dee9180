"""One fold: sums over the text to fit, a search among candidates, and the change left in the pruned model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heal.patching.least_squares import OBJECTIVES, Sums, aim, massive, solve, solve_map
from heal.patching.places import Place, find_place
from heal.result import Candidate, FoldRecord
from heal.settings import PatchSettings

if TYPE_CHECKING:
    from heal.patching.side_by_side import SideBySide
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


@dataclass(frozen=True)
class Solved:
    """What was tried at one place, and the change of (D, F) that was chosen; None if none was better than none.

    Losses are on the text that is apart from what was fitted, nats per token.
    """

    loss_without: float
    candidates: tuple[Candidate, ...]
    best: Candidate
    change: torch.Tensor | None

    def record(self, fold: Fold, tensors: Sequence[str]) -> FoldRecord:
        """What heal.json says of it; `tensors`: names in the checkpoint."""
        place = fold.place
        return FoldRecord(
            layer=place.layer,
            target=fold.target,
            module=place.path,
            scale=place.scale,
            bias=place.bias,
            tensors=tuple(tensors),
            loss_without=self.loss_without,
            chosen=None if self.change is None else self.best,
            candidates=self.candidates,
        )


@dataclass(frozen=True)
class PatchText:
    """Packed rows of text: to fit, to choose a candidate by, and held out from both."""

    fit: Sequence[Row]
    choose: Sequence[Row]
    held_out: Sequence[Row]


def find_folds(models: SideBySide, blocks: Sequence[tuple[int, int]], row: Row) -> list[Fold]:
    """A fold before each dropped block (start, n), from the bottom; see `find_place` for what it refuses.

    Args:
        row: text to try the places on.
    """
    ids = torch.from_numpy(row.tokens[:32]).long()[None].to(models.model.device)
    return [Fold(find_place(models.model, models.layers, start - 1, ids), start + n) for start, n in blocks]


def solve_fold(
    models: SideBySide,
    fold: Fold,
    text: PatchText,
    settings: PatchSettings,
    advance: Callable[[int, str], None] = lambda rows, words: None,
) -> Solved:
    """Find the best change at one place.

    Args:
        models: with the changes at the places below.
        advance: told how many rows were run, and a few words.
    """
    objectives, rows, size = objectives_of(settings), text.fit, settings.batch_size
    place, layer = fold.place, fold.place.layer
    matrix = place.matrix(models.layers)
    outputs, features = matrix.shape
    parts = {name: Parts(*(Sums.empty(features, outputs, device=matrix.device) for _ in "12")) for name in objectives}
    typical = 0.0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        taken = models.take(part, place, fold.target)
        typical = typical or float(taken.target.float().norm(dim=1).median())
        apart = massive(taken.target, typical)
        for name, sums in parts.items():
            errors, counts = aim(taken.state, taken.target, name, typical)
            sums.ordinary.add(taken.features, errors / place.scale, counts * ~apart)
            sums.massive.add(taken.features, errors / place.scale, counts * apart)
        advance(len(part), f"layer {layer}: reading")
    held = list(models.hold(text.choose, place, size))
    plain = models.loss(held, place, None)
    advance(2 * len(text.choose), f"layer {layer}: loss {plain:.3f} without a patch")

    def measure(change: torch.Tensor) -> float:
        loss = models.loss(held, place, change)
        advance(
            len(text.choose), f"layer {layer}: candidate {len(search.tried) + 1}, loss {loss:.3f} ({plain:.3f} without)"
        )
        return loss

    search = Search(layer, parts, matrix, measure)
    best, change = search.run(settings.kind, settings.ridge)
    return Solved(plain, tuple(search.tried), best, change if best.loss < plain else None)


def objectives_of(settings: PatchSettings) -> tuple[str, ...]:
    return OBJECTIVES if settings.objective == "auto" else (settings.objective,)


def most_rows(settings: PatchSettings, folds: int, text: PatchText) -> int:
    """The most rows that solving so many folds runs, and measuring before and after."""
    ladder = len(RIDGES) - 1 if settings.ridge is None else 0
    candidates = len(objectives_of(settings)) + len(SHARES) - 1 + ladder + (settings.kind == "auto")
    return folds * (len(text.fit) + (2 + candidates) * len(text.choose)) + 3 * len(text.held_out)


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
            share = _MIDDLE if shared else None
            self._try(Candidate(layer=self.layer, kind=first, objective=objective, ridge=at, share=share))
        assert self.best is not None
        assert self.change is not None
        if self.best.share is not None:
            self._climb(SHARES, lambda begin, value: begin.model_copy(update={"share": value}))
        if ridge is None:
            self._climb(RIDGES, lambda begin, value: begin.model_copy(update={"ridge": value}))
        if kind == "auto":
            self._try(self.best.model_copy(update={"kind": "map"}))
        return self.best, self.change

    def _climb(self, ladder: tuple[float, ...], at: Callable[[Candidate, float], Candidate]) -> None:
        """Up and down a ladder of settings for as long as the loss falls."""
        assert self.best is not None
        begin = self.best
        for step in (1, -1):
            rung = ladder.index(_MIDDLE)
            while 0 <= rung + step < len(ladder):
                rung += step
                if not self._try(at(begin, ladder[rung])):
                    break

    def _try(self, wanted: Candidate) -> bool:
        sums = self.parts[wanted.objective].whole(wanted.share)
        change = solved(sums, self.weight, wanted.kind, wanted.ridge)
        tried = wanted.model_copy(update={"loss": self.measure(change), "left_over": sums.left_over(change)})
        self.tried.append(tried)
        better = self.best is None or tried.loss < self.best.loss
        if better:
            self.best, self.change = tried, change
        return better


def solved(sums: Sums, weight: torch.Tensor, kind: str, ridge: float) -> torch.Tensor:
    """The change of (D, F) that one candidate makes."""
    if kind == "map":
        return solve_map(sums, weight, ridge=ridge)
    return solve(sums, ridge=ridge)
