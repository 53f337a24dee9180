"""A choice that must keep a share of the copy score: which layers may still go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from prune.common.errors import UsageError
from prune.common.layers import spell_layers, starts

_ROUNDING = 1e-9


def share_of(by_layer: Sequence[float], dropped: Iterable[int]) -> float:
    """The share of a score's sum over all layers that stands in some of them; 0 if there is none at all."""
    total = sum(by_layer)
    return sum(by_layer[layer] for layer in dropped) / total if total else 0.0


@dataclass(frozen=True)
class HeadProtection:
    """Which layers may go, so that at least a share of the copy score stays.

    Attributes:
        by_layer: copy scores of each layer's heads, summed.
        kept: the share that has to stay, above 0 and up to 1.

    Raises:
        UsageError: no head copies anything.
    """

    by_layer: Sequence[float]
    kept: float

    def __post_init__(self) -> None:
        if not sum(self.by_layer) > 0:
            raise UsageError("--protect-heads: the file of --heads has no head that copies; leave it out")

    def removed(self, dropped: Iterable[int]) -> float:
        """The share of the copy score that goes with these layers."""
        return share_of(self.by_layer, dropped)

    def allows(self, dropped: Iterable[int]) -> bool:
        """Whether these layers may go."""
        return self.removed(dropped) <= 1 - self.kept + _ROUNDING

    def leaves_room(self, dropped: Collection[int], n: int, allow_last: bool) -> bool:
        """Whether these layers may go and can be made `n` by others, so that all may go."""
        return self.allows([*dropped, *self._cheapest(n - len(dropped), allow_last, dropped)])

    def check(self, n: int, *, allow_last: bool, blocks: bool) -> None:
        """See that there is a choice.

        Args:
            n: how many layers are to go.
            allow_last: whether the last layer may be among them.
            blocks: whether they have to be a block.

        Raises:
            UsageError: no `n` layers may go.
        """
        least = self._least(n, allow_last, blocks)
        if not self.allows(least):
            raise UsageError(
                f"--protect-heads {self.kept:g}: any {'block of ' if blocks else ''}{n} layers "
                f"{'has' if blocks else 'have'} {self.removed(least):.1%} of the copy score or more (layers "
                f"{spell_layers(least)} the least); drop fewer layers or protect less"
            )

    def most(self, *, allow_last: bool, blocks: bool) -> int:
        """How many layers may go at most; 0 for none. The arguments are those of `check`."""
        bound = len(self.by_layer) - (not allow_last)
        fewer = (n for n in range(1, bound + 1) if not self.allows(self._least(n, allow_last, blocks)))
        return next(fewer, bound + 1) - 1

    def _least(self, n: int, allow_last: bool, blocks: bool) -> Sequence[int]:
        """The `n` layers that take least with them."""
        if not blocks:
            return self._cheapest(n, allow_last)
        choices = [range(start, start + n) for start in starts(len(self.by_layer), n, allow_last=allow_last)]
        return min(choices, key=self.removed)

    def _cheapest(self, count: int, allow_last: bool, without: Collection[int] = ()) -> list[int]:
        """The layers that take least with them."""
        candidates = range(len(self.by_layer) - (not allow_last))
        order = sorted((layer for layer in candidates if layer not in without), key=lambda layer: self.by_layer[layer])
        return order[:count]
