"""Which variants of a model a sweep measures, and what the walk through them costs. Pure arithmetic, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eval.billing.sweep import VariantRecord
from prune.common.errors import UsageError
from prune.common.layers import deepest_start, parse_layers, starts
from prune.models.walks.walking import Route, count_passes

RULES = ("best", "deepest", "all")


@dataclass(frozen=True)
class Variant:
    """The model without the block of `n` layers from `start` on (0-based); the full model for n = 0, start None.

    adapter: the name of a healing adapter at work on the layers from `adapted_from` on, numbered as in the full model.
    dropped: the layers that are gone, in any pattern where an adapter's own model was cut so.
    """

    n: int
    start: int | None
    dropped: tuple[int, ...]
    adapter: str | None = None
    adapted_from: int = 0

    @property
    def label(self) -> str:
        """`full`, `4@12` for four layers from layer 12 on, `4@12+name` with an adapter."""
        plain = "full" if not self.dropped else f"{self.n}@{self.start}"
        return plain if self.adapter is None else f"{plain}+{self.adapter}"


FULL = Variant(0, None, ())


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep measures: the full model first, then by size and start.

    layers: L. sizes, starts: as asked; starts is one of RULES or a list of layers.
    """

    layers: int
    sizes: tuple[int, ...]
    starts: str | tuple[int, ...]
    variants: tuple[Variant, ...]

    @property
    def mapped(self) -> bool:
        """Whether there are several starts a size, so that a map over them says something."""
        return not isinstance(self.starts, str) or self.starts == "all"

    def with_variants(self, more: Sequence[Variant]) -> SweepPlan:
        """The same with more variants at the end."""
        labels = [variant.label for variant in (*self.variants, *more)]
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise UsageError(f"--adapter gives {twice[0]} twice; name the adapters' folders apart")
        return replace(self, variants=(*self.variants, *more))

    @property
    def routes(self) -> list[Route]:
        """The ways of the variants through the layers."""
        return [Route(frozenset(v.dropped), v.adapter, v.adapted_from) for v in self.variants]

    @property
    def records(self) -> tuple[VariantRecord, ...]:
        """The variants as sweep.json holds them."""
        return tuple(
            VariantRecord(label=v.label, n=v.n, start=v.start, dropped=v.dropped, adapter=v.adapter)
            for v in self.variants
        )

    def passes(self) -> int:
        """Layers that one walk through all variants runs; one model alone runs L."""
        return count_passes(self.layers, self.routes)

    def words(self) -> str:
        """In one line: how many variants, and what they cost."""
        apart = sum(self.layers - len(v.dropped) for v in self.variants)
        ratio = self.passes() / self.layers
        return (
            f"{len(self.variants)} variants in one walk of {self.passes()} layer passes: {ratio:.1f} times one model "
            f"({apart / self.layers:.1f} times one by one)"
        )


def block(n: int, start: int | None) -> Variant:
    """The variant that drops `n` layers from `start` on; the full model for n = 0."""
    if n == 0 or start is None:
        return FULL
    return Variant(n, start, tuple(range(start, start + n)))


def parse_sizes(sizes: str, layers: int, *, example: str) -> tuple[int, ...]:
    """How many layers to drop, above 0 and rising; a UsageError for what a model of so many layers cannot lose."""
    asked = tuple(n for n in parse_layers(sizes, "--sizes") if n > 0)
    if not asked:
        raise UsageError(f"--sizes {sizes} drops nothing; name sizes above 0, as {example}")
    if max(asked) > layers - 1:
        raise UsageError(f"--sizes {sizes}: of {layers} layers at most {layers - 1} can be dropped (the last is kept)")
    return asked


def plan_sweep(layers: int, *, sizes: str, rule: str, best: Mapping[int, int] | None = None) -> SweepPlan:
    """The variants of a sweep over a model of `layers` layers. The last layer is always kept.

    Args:
        sizes: how many layers to drop, as `0-15` or `0,4,8`; the full model is measured with or without the 0.
        rule: `best` (a scan's start for each size), `deepest`, `all`, or start layers such as `3,7,10-12`.
        best: the scan's start of each size.
    """
    asked = parse_sizes(sizes, layers, example="0-15")
    if rule == "best" and best is None:
        raise UsageError("--starts best goes by a scan: add --scan scan.json, or use deepest or all")
    listed = None if rule in RULES else parse_layers(rule, "--starts")
    variants = [FULL]
    for n in asked:
        allowed = starts(layers, n)
        if rule == "best":
            assert best is not None
            chosen = [best[n]]
        elif rule == "deepest":
            chosen = [deepest_start(layers, n)]
        else:
            chosen = [start for start in allowed if listed is None or start in listed]
        variants += [block(n, start) for start in chosen]
    if unused := [start for start in listed or () if start not in {v.start for v in variants}]:
        raise UsageError(
            f"--starts {rule}: no block of the sizes {sizes} can start at layer {unused[0]} of {layers} "
            "(the last layer is kept)"
        )
    return SweepPlan(layers, (0, *asked), rule if listed is None else listed, tuple(variants))
