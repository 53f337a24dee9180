"""One fold: sums over the text to fit, a search among candidates, and the change left in the pruned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from heal.patching.evidence import Evidence
from heal.patching.least_squares import OBJECTIVES
from heal.patching.places import Place
from heal.result import Candidate, FoldRecord
from heal.settings import PatchSettings

if TYPE_CHECKING:
    from heal.patching.from_files import FromFiles
    from heal.patching.side_by_side import PatchText, SideBySide
    from heal.text.packing import Row

    Models = SideBySide | FromFiles

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


def find_folds(models: Models, blocks: Sequence[tuple[int, int]], row: Row) -> list[Fold]:
    """A fold before each dropped block (start, n), from the bottom; see `find_place` for what it refuses.

    Args:
        row: text to try the places on.
    """
    ids = torch.from_numpy(row.tokens[:32]).long()[None]
    places = models.find([start - 1 for start, _ in blocks], ids)
    return [Fold(place, start + n) for place, (start, n) in zip(places, blocks, strict=True)]


def solve_fold(
    models: Models,
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
    place, layer = fold.place, fold.place.layer
    matrix = models.matrix(place)
    evidence, held = models.look(
        place, fold.target, text, settings.batch_size, lambda rows: advance(rows, f"layer {layer}: reading")
    )
    plain = models.loss(held, place, None)
    advance(len(text.choose), f"layer {layer}: loss {plain:.3f} without a patch")

    def told(number: int, loss: float) -> None:
        words = f"layer {layer}: candidate {number}, loss {loss:.3f} ({plain:.3f} without)"
        advance(len(text.choose), words)

    def judge(changes: Iterator[torch.Tensor]) -> list[float]:
        return models.judge(held, place, changes)

    search = Search(layer, evidence, matrix, judge, together=models.judges_together, told=told)
    best, change = search.run(objectives_of(settings), settings.kind, settings.ridge)
    return Solved(plain, tuple(search.tried), best, change if best.loss < plain else None)


def objectives_of(settings: PatchSettings) -> tuple[str, ...]:
    return OBJECTIVES if settings.objective == "auto" else (settings.objective,)


def most_rows(settings: PatchSettings, folds: int, text: PatchText) -> int:
    """The most rows that solving so many folds runs, and measuring before and after."""
    ladder = len(RIDGES) - 1 if settings.ridge is None else 0
    candidates = len(objectives_of(settings)) + len(SHARES) - 1 + ladder + (settings.kind == "auto")
    return folds * (len(text.fit) + (2 + candidates) * len(text.choose)) + 3 * len(text.held_out)


Judge = Callable[[Iterator[torch.Tensor]], list[float]]


class Search:
    """Tries changes at one place and remembers the best."""

    def __init__(
        self,
        layer: int,
        evidence: Evidence,
        weight: torch.Tensor,
        judge: Judge,
        *,
        together: bool = False,
        told: Callable[[int, float], None] = lambda number, loss: None,
    ) -> None:
        """
        Args:
            evidence: what the text to fit shows there.
            weight: the projection's matrix, (D, F).
            judge: losses with changes of (D, F), nats per token.
            together: changes are judged several at a time, those too that the search may then not ask for.
            told: called with the number of candidates tried, and the loss of the last.
        """
        self.layer, self.evidence, self.weight, self.judge = layer, evidence, weight, judge
        self.together, self.told = together, told
        self.tried: list[Candidate] = []
        self.best: Candidate | None = None
        self.change: torch.Tensor | None = None
        self._ahead: dict[tuple[object, ...], Candidate] = {}  # what was judged already

    def run(self, objectives: Sequence[str], kind: str, ridge: float | None) -> tuple[Candidate, torch.Tensor]:
        """Each objective at middling settings, then share and ridge of the best; `auto`: the other kind too."""
        first = "matrix" if kind == "auto" else kind
        at = _MIDDLE if ridge is None else ridge
        massive = self.evidence.massive
        shares = [_MIDDLE if objective in _SHARED and massive else None for objective in objectives]
        self._try_all(
            [
                Candidate(layer=self.layer, kind=first, objective=objective, ridge=at, share=share)
                for objective, share in zip(objectives, shares, strict=True)
            ]
        )
        assert self.best is not None
        if self.best.share is not None:
            self._climb(SHARES, lambda begin, value: begin.model_copy(update={"share": value}))
        if ridge is None:
            self._climb(RIDGES, lambda begin, value: begin.model_copy(update={"ridge": value}))
        if kind == "auto":
            self._try(self.best.model_copy(update={"kind": "map"}))
        if self.change is None:
            self.change, _ = self._solved(self.best)
        return self.best, self.change

    def _try_all(self, wanted: Sequence[Candidate]) -> None:
        self._look_ahead(wanted)
        for candidate in wanted:
            self._try(candidate)

    def _climb(self, ladder: tuple[float, ...], at: Callable[[Candidate, float], Candidate]) -> None:
        """Up and down a ladder of settings for as long as the loss falls."""
        assert self.best is not None
        begin = self.best
        self._look_ahead([at(begin, value) for value in ladder if value != _MIDDLE])
        for step in (1, -1):
            rung = ladder.index(_MIDDLE)
            while 0 <= rung + step < len(ladder):
                rung += step
                if not self._try(at(begin, ladder[rung])):
                    break

    def _look_ahead(self, wanted: Sequence[Candidate]) -> None:
        """Judge candidates together; none of their changes is kept."""
        if not self.together:
            return
        left_over: list[float] = []

        def changes() -> Iterator[torch.Tensor]:
            for candidate in wanted:
                change, left = self._solved(candidate)
                left_over.append(left)
                yield change

        losses = self.judge(changes())
        for candidate, loss, left in zip(wanted, losses, left_over, strict=True):
            self._ahead[_settings(candidate)] = candidate.model_copy(update={"loss": loss, "left_over": left})

    def _try(self, wanted: Candidate) -> bool:
        tried, change = self._ahead.get(_settings(wanted)), None
        if tried is None:
            change, left = self._solved(wanted)
            (loss,) = self.judge(iter([change]))
            tried = wanted.model_copy(update={"loss": loss, "left_over": left})
        self.tried.append(tried)
        self.told(len(self.tried), tried.loss)
        better = self.best is None or tried.loss < self.best.loss
        if better:
            self.best, self.change = tried, change
        return better

    def _solved(self, wanted: Candidate) -> tuple[torch.Tensor, float]:
        parts = self.evidence.parts(wanted.objective)
        return parts.solved(self.weight, wanted.kind, wanted.ridge, wanted.share)


def _settings(candidate: Candidate) -> tuple[object, ...]:
    """What is tried, without the figures of it."""
    return candidate.kind, candidate.objective, candidate.ridge, candidate.share
