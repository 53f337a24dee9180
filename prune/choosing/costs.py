"""What dropping a block costs each domain: costs.json ("regrowth.costs/1"), such as a sweep writes.

    {"format": "regrowth.costs/1",
     "layers": 30,                                   L, the layers of the model that was measured
     "measure": "answer NLL, bits over full model",  what a cost is; any measure of which less is better
     "domains": {"medical": {"6": {"13": 0.41}}},    domain -> block size n -> start (0-based) -> cost
     "provenance": {"model": {...}}}                 as in every artefact

A start may be missing where it was not measured. Domains are summed as they stand, so all of one file are of one
measure; weights are the reader's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.common.errors import CheckpointError, UsageError
from prune.common.provenance import read_artefact

FORMAT = "regrowth.costs/1"


@dataclass(frozen=True)
class Costs:
    """layers: L. measure: in words. domains: {domain: {size: {start: cost}}}."""

    layers: int
    measure: str
    domains: dict[str, dict[int, dict[int, float]]]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The document that costs.json holds."""
        domains = {
            domain: {str(n): {str(start): cost for start, cost in row.items()} for n, row in sizes.items()}
            for domain, sizes in self.domains.items()
        }
        head = {"format": FORMAT, "layers": self.layers, "measure": self.measure}
        return {**head, "domains": domains, "provenance": self.provenance}

    @classmethod
    def read(cls, path: str | Path) -> Costs:
        """Read and check costs.json.

        Raises:
            CheckpointError: missing, of another format, or with an entry that no sweep can have.
        """
        document = read_artefact(path, FORMAT)
        try:
            layers = document["layers"]
            domains = {
                domain: {int(n): {int(start): float(cost) for start, cost in row.items()} for n, row in sizes.items()}
                for domain, sizes in document["domains"].items()
            }
            provenance = document.get("provenance") or {}
            found = cls(layers, str(document.get("measure", "")), domains, dict(provenance))
            rows = [(n, row) for sizes in domains.values() for n, row in sizes.items()]
            sane = type(layers) is int and all(
                0 < n < layers and 0 <= start <= layers - n and math.isfinite(cost)
                for n, row in rows
                for start, cost in row.items()
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error})") from None
        if not domains or not sane:
            raise CheckpointError(f"{path} is damaged: no domains, or a block that {layers} layers do not hold")
        return found

    def weighed(self, n: int, weights: Mapping[str, float] | None = None) -> dict[int, float]:
        """{start: weighted mean cost} of the blocks of `n` layers that every weighed domain has measured.

        Args:
            weights: {domain: weight}; all domains alike if None.

        Raises:
            UsageError: a domain that was not measured, or a size that none of them has.
        """
        weights = weights or dict.fromkeys(self.domains, 1.0)
        unknown = sorted(set(weights) - set(self.domains))
        if unknown:
            raise UsageError(
                f"--weigh {unknown[0]}: not among the measured domains ({', '.join(sorted(self.domains))})"
            )
        rows = [self.domains[domain].get(n, {}) for domain in weights]
        shared = set.intersection(*(set(row) for row in rows))
        if not shared:
            sizes = sorted({size for domain in weights for size in self.domains[domain]})
            raise UsageError(f"--n {n}: the costs hold no block of that size for all weighed domains (sizes: {sizes})")
        total = sum(weights.values())
        return {
            start: sum(weight * row[start] for weight, row in zip(weights.values(), rows, strict=True)) / total
            for start in sorted(shared)
        }


def parse_weights(text: str) -> dict[str, float]:
    """`medical=1,math=2` as {domain: weight}.

    Raises:
        UsageError: not of that form, a negative weight, or none above zero.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not name or not equals or not math.isfinite(weight) or weight < 0 or name in found:
            raise UsageError(f"--weigh {text!r}: write medical=1,math=2, each domain once, no weight below 0")
        found[name] = weight
    if not any(found.values()):
        raise UsageError(f"--weigh {text!r}: at least one weight has to be above 0")
    return found
