"""How the layers to drop are found: one registry, an entry a criterion. What needs a model is handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from prune.common.errors import UsageError
from prune.common.layers import lowest_influence, starts

if TYPE_CHECKING:
    from prune.choosing.protecting import HeadProtection
    from prune.scanning.result import Scan

CriterionName = Literal["angular", "deepest", "influence", "loss", "domain"]
Need = Literal["nothing", "scan", "costs", "model"]


@dataclass(frozen=True)
class Given:
    """What a criterion may go by; of `scan`, `costs` and `removed` the one that it needs is there.

    n: how many layers to drop. layers: L. costs: {start: cost} of the blocks of size n. removed: the n layers that
    greedy removal takes away. protection: of heads; None for none.
    """

    n: int
    layers: int
    allow_last: bool = False
    scan: Scan | None = None
    costs: Mapping[int, float] | None = None
    removed: Sequence[int] | None = None
    protection: HeadProtection | None = None

    def starts(self) -> list[int]:
        """Starts of the blocks that may go."""
        every = starts(self.layers, self.n, allow_last=self.allow_last)
        return [start for start in every if self.protection is None or self.protection.allows(_block(start, self.n))]

    def may_go(self, dropped: Sequence[int]) -> bool:
        """Whether layers may be among those that go."""
        return self.protection is None or self.protection.leaves_room(dropped, self.n, self.allow_last)


@dataclass(frozen=True)
class Criterion:
    """One way to choose.

    words: says which in a plan. checked: its choice is checked on text unless told not to. blocks: it drops one block.
    """

    name: str
    words: str
    needs: Need
    choose: Callable[[Given], tuple[int, ...]]
    checked: bool = False
    blocks: bool = True


def _block(start: int, n: int) -> tuple[int, ...]:
    return tuple(range(start, start + n))


def _angular(given: Given) -> tuple[int, ...]:
    assert given.scan is not None
    row = given.scan.distance[given.n - 1]
    return _block(min(given.starts(), key=lambda start: (row[start], start)), given.n)


def _deepest(given: Given) -> tuple[int, ...]:
    return _block(given.starts()[-1], given.n)


def _influence(given: Given) -> tuple[int, ...]:
    assert given.scan is not None
    return tuple(lowest_influence(given.scan.influence, given.n, given.allow_last, given.may_go))


def _loss(given: Given) -> tuple[int, ...]:
    assert given.removed is not None
    return tuple(sorted(given.removed))


def _domain(given: Given) -> tuple[int, ...]:
    costs = given.costs
    assert costs is not None
    allowed = [start for start in given.starts() if start in costs]
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
        Criterion("influence", "the layers of least block influence", "scan", _influence, blocks=False),
        Criterion(
            "loss",
            "greedy removal: each time the layer without which the loss rises least",
            "model",
            _loss,
            blocks=False,
        ),
        Criterion("domain", "the block of least cost over the weighed domains", "costs", _domain),
    )
}
