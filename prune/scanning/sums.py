"""What a pass over samples leaves behind: sums that add up, whichever process computed them, and that can be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prune.scanning.angles import MeanSums

if TYPE_CHECKING:
    from prune.scanning.states import BatchResult

CKA_SAMPLES = 256  # the first of the sample, in drawn order, whose last-token states are kept for CKA


@dataclass
class ScanSums:
    """Sums over samples of a model of L layers.

    distances: sums of d(l, n). influence, magnitude: (L,), summed over tokens. token_count: those tokens.
    dtype: that the model ran in, such as "float32".
    groups: sums of the distances over the samples of each label, such as ("half", "first").
    vectors: {sample: (L+1, D) float32}, last-token states of the first samples.
    done: batches that are in, by number.
    """

    distances: MeanSums
    influence: np.ndarray
    magnitude: np.ndarray
    dtype: str
    token_count: int = 0
    groups: dict[tuple[str, str], MeanSums] = field(default_factory=dict)
    vectors: dict[int, np.ndarray] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, layers: int, dtype: Any) -> ScanSums:
        """Nothing measured yet; `dtype` as torch has it."""
        pairs = layers * (layers + 1) // 2
        return cls(MeanSums(pairs), np.zeros(layers), np.zeros(layers), str(dtype).removeprefix("torch."))

    @property
    def layers(self) -> int:
        return len(self.influence)

    def add(
        self, number: int, batch: Sequence[int], result: BatchResult, labels: Sequence[Sequence[tuple[str, str]]]
    ) -> None:
        """Take in batch `number`, of the samples `batch`; `labels` are those of every sample of the scan, or none."""
        self.distances.add(result.totals, result.weights)
        self.influence += result.influence
        self.magnitude += result.magnitude
        self.token_count += result.token_count
        self.done.append(number)
        rows: dict[tuple[str, str], list[int]] = {}
        for row, sample in enumerate(batch):
            if sample < CKA_SAMPLES:
                self.vectors[sample] = result.last[row]
            for label in labels[sample] if labels else ():
                rows.setdefault(label, []).append(row)
        for label, members in rows.items():
            self._group(label).add(result.totals[members], result.weights[members])

    def merge(self, other: ScanSums) -> None:
        """Add what other samples of the same model gave."""
        self.distances.merge(other.distances)
        self.influence = self.influence + other.influence
        self.magnitude = self.magnitude + other.magnitude
        self.token_count += other.token_count
        self.vectors |= other.vectors
        self.done += other.done
        for label, sums in other.groups.items():
            self._group(label).merge(sums)

    def _group(self, label: tuple[str, str]) -> MeanSums:
        return self.groups.setdefault(label, MeanSums(self.distances.size))

    def parts(self) -> tuple[Any, dict[str, np.ndarray]]:
        """All of it as JSON and arrays, to be kept in a file."""
        sums = [self.distances, *self.groups.values()]
        arrays = {"influence": self.influence, "magnitude": self.magnitude, "done": np.array(self.done, dtype=np.int64)}
        arrays["sums"] = np.stack([part.sums for part in sums])
        if self.vectors:
            arrays["vectors"] = np.stack(list(self.vectors.values()))
        state = {"dtype": self.dtype, "tokens": self.token_count, "samples": [part.samples for part in sums]}
        return state | {"groups": list(self.groups), "vectors": list(self.vectors)}, arrays

    @classmethod
    def restore(cls, state: Any, arrays: Mapping[str, np.ndarray]) -> ScanSums:
        """What `parts` gave; KeyError, TypeError or IndexError where something is missing."""
        sums = cls.empty(len(arrays["influence"]), state["dtype"])
        sums.influence, sums.magnitude, sums.token_count = arrays["influence"], arrays["magnitude"], state["tokens"]
        sums.done = arrays["done"].tolist()
        parts = [sums.distances, *(sums._group((kind, name)) for kind, name in state["groups"])]
        for part, values, samples in zip(parts, arrays["sums"], state["samples"], strict=True):
            part.sums, part.samples = values, samples
        for row, sample in enumerate(state["vectors"]):
            sums.vectors[sample] = arrays["vectors"][row]
        return sums
