"""One fold: sums over the text to fit, a search among candidates, and the change left in the pruned model's track."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from heal.patching.candidates import Candidate, Parts, Search
from heal.patching.least_squares import Sums, aim, massive
from heal.patching.places import Place, find_place

if TYPE_CHECKING:
    from heal.patching.side_by_side import Tracks
    from heal.text.packing import Row


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
