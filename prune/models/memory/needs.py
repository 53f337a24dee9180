"""What a model takes that is loaded and asked, layer by layer: weights, keys and values, work. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prune.models.memory.kv_cache import LayerCache, cache_bytes
from prune.models.memory.weights import Weights


@dataclass(frozen=True)
class Load:
    """How a model is to be run: tokens of each sequence, sequences at once, bits, tokens of a prompt read at a time.

    `chunk` is None where a prompt is read in one pass, as `generate` does.
    """

    context: int
    sequences: int = 1
    bits: int = 16
    chunk: int | None = None


@dataclass(frozen=True)
class Taken:
    """Bytes of weights, of keys and values (and other states), and of work."""

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work


@dataclass(frozen=True)
class Work:
    """Bytes beside weights and cache.

    Attributes:
        begin: at most until the first layer runs.
        layers: at most while each runs, less what it and those before it keep.
        beyond: what each keeps beyond its cache until the prompt is read: a window is cut off only at the next pass.
        end: at most behind the last layer, less what layers keep.
    """

    begin: int
    layers: tuple[int, ...]
    beyond: tuple[int, ...]
    end: int

    def peak(self, kept: Sequence[int]) -> int:
        """Bytes at the peak of a model that has these layers (0-based)."""
        inside = max(self.layers[layer] for layer in kept)
        return max(self.begin, inside, self.end) + sum(self.beyond[layer] for layer in kept)


@dataclass(frozen=True)
class Needs:
    """What each layer of a model takes, and what stands outside them; `work` has what 8 or 4 bits add (`unpacking`).

    `packed`: the weights are stored quantised.
    """

    asked: Load
    weights: Weights
    caches: tuple[LayerCache, ...]
    work: Work
    unpacking: int = 0
    packed: bool = False

    @property
    def layers(self) -> int:
        """L."""
        return len(self.caches)

    def of(self, kept: Sequence[int]) -> Taken:
        """Bytes of the model that has these of its layers (0-based)."""
        return Taken(
            weights=self.weights.outside + sum(self.weights.layers[layer] for layer in kept),
            cache=cache_bytes((self.caches[layer] for layer in kept), self.asked.context, self.asked.sequences),
            work=self.work.peak(kept) + self.unpacking,
        )
