"""How the layers to drop are found: one registry, an entry a criterion. What needs a model is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prune.common.errors import UsageError
from prune.common.layers import best_start, deepest_start, lowest_influence, starts

if TYPE_CHECKING:
    from prune.scanning.result import Scan

CriterionName = Literal["angular", "deepest", "influence", "loss", "domain"]
Need = Literal["nothing", "scan", "costs", "model"]


@dataclass(frozen=True)
class Given:
    """What a criterion may go by; of `scan`, `costs` and `removed` the one that it needs is there.

    n: how many layers to drop. layers: L. costs: {start: cost} of the blocks of size n. removed: the n layers that
    greedy removal takes away.
    """

    n: int
    layers: int
    allow_last: bool = False
    scan: Scan | None = None
    costs: Mapping[int, float] | None = None
    removed: Sequence[int] | None = None


@dataclass(frozen=True)
class Criterion:
    """One way to choose. `words` says which in a plan; `checked`: its choice is checked on text unless told not to."""

    name: str
    words: str
    needs: Need
    choose: Callable[[Given], tuple[int, ...]]
    checked: bool = False


def _block(start: int, n: int) -> tuple[int, ...]:
    return tuple(range(start, start + n))


def _angular(given: Given) -> tuple[int, ...]:
    assert given.scan is not None
    row = given.scan.distance[given.n - 1]
    return _block(best_start(row, given.layers, given.n, given.allow_last), given.n)


def _deepest(given: Given) -> tuple[int, ...]:
    return _block(deepest_start(given.layers, given.n, given.allow_last), given.n)


def _influence(given: Given) -> tuple[int, ...]:
    assert given.scan is not None
    return tuple(lowest_influence(given.scan.influence, given.n, given.allow_last))


def _loss(given: Given) -> tuple[int, ...]:
    assert given.removed is not None
    return tuple(sorted(given.removed))


def _domain(given: Given) -> tuple[int, ...]:
    costs = given.costs
    assert costs is not None
    allowed = [start for start in starts(given.layers, given.n, allow_last=given.allow_last) if start in costs]
    if not allowed:
        raise UsageError(
            f"--costs measured no block of {given.n} layers that may be dropped and that all weighed domains share"
        )
    return _block(min(allowed, key=lambda start: (costs[start], start)), given.n)


CRITERIA = {
    criterion.name: criterion
    for criterion in (
        Criterion(
            "angular", "the block of least angular distance between its input and its output", "scan", _angular, True
        ),
        Criterion("deepest", "the deepest block that keeps the last layer", "nothing", _deepest),
        Criterion("influence", "the layers of least block influence", "scan", _influence),
        Criterion("loss", "greedy removal: each time the layer whose loss costs least", "model", _loss),
        Criterion("domain", "the block of least cost over the weighed domains", "costs", _domain),
    )
}
