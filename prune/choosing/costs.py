"""What dropping a block costs each domain: costs.json, such as a sweep writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from prune.common.errors import UsageError
from prune.common.files.artefact import Artefact


class Costs(Artefact):
    """What dropping a block costs each domain. Domains are summed as they stand; weights are the reader's."""

    AGAIN: ClassVar[str] = "make it again with `evaluate sweep`"

    format: Literal["regrowth.costs/2"] = "regrowth.costs/2"
    layers: int = Field(description="L of the model that was measured")
    measure: str = Field(
        description="in words, what a cost is; less is better, and all costs of a file are of one measure"
    )
    domains: dict[str, dict[int, dict[int, float]]] = Field(
        min_length=1,
        description="`{domain: {n: {start: cost}}}`, n and start as strings; a start that was not measured is left out",
    )
    provenance: dict[str, Any] = Field(description="model, text, seed, versions, command")

    @model_validator(mode="after")
    def _fits_the_layers(self) -> Costs:
        for domain, sizes in self.domains.items():
            for n, row in sizes.items():
                for start, cost in row.items():
                    if not (0 < n < self.layers and 0 <= start <= self.layers - n):
                        raise ValueError(f"{self.layers} layers hold no block of {n} from {start} ({domain})")
                    if not math.isfinite(cost):
                        raise ValueError(f"the cost of the block of {n} from {start} is {cost} ({domain})")
        return self

    def weighed(self, n: int, weights: Mapping[str, float] | None = None) -> dict[int, float]:
        """{start: weighted mean cost} of the blocks of `n` layers that every weighed domain has measured.

        Args:
            weights: {domain: weight}; all domains alike if None.

        Raises:
            UsageError: a domain that was not measured, or a size that none of them has.
        """
        weights = weights or dict.fromkeys(self.domains, 1.0)
        self.check_weights(weights)
        rows = [self.domains[domain].get(n, {}) for domain in weights]
        shared = self._shared(n, weights)
        if not shared:
            sizes = sorted({size for domain in weights for size in self.domains[domain]})
            raise UsageError(f"--n {n}: the costs hold no block of that size for all weighed domains (sizes: {sizes})")
        total = sum(weights.values())
        return {
            start: sum(weight * row[start] for weight, row in zip(weights.values(), rows, strict=True)) / total
            for start in sorted(shared)
        }

    def check_weights(self, weights: Mapping[str, float] | None) -> None:
        """Refuse weights of domains that these costs do not hold.

        Raises:
            UsageError: a domain that was not measured.
        """
        unknown = sorted(set(weights or ()) - set(self.domains))
        if unknown:
            raise UsageError(
                f"--weigh {unknown[0]}: not among the measured domains ({', '.join(sorted(self.domains))})"
            )

    def sizes(self, weights: Mapping[str, float] | None = None) -> list[int]:
        """Sizes n, rising, of which every weighed domain (all if None) has measured one and the same block."""
        return [n for n in range(1, self.layers) if self._shared(n, weights or self.domains)]

    def _shared(self, n: int, domains: Iterable[str]) -> set[int]:
        """Starts of the blocks of `n` layers that all these domains have measured."""
        return set.intersection(*(set(self.domains[domain].get(n, {})) for domain in domains))
