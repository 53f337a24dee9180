"""What a pass over samples leaves behind: sums that add up, whoever has computed them, and that can be kept."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prune.common.errors import RegrowthError
from prune.common.outputs import write_bytes
from prune.scanning.angles import MeanSums

if TYPE_CHECKING:
    from prune.scanning.states import BatchResult

CKA_SAMPLES = 256  # the first of the sample, in drawn order, whose last-token states are kept for CKA


@dataclass
class Measured:
    """Sums over samples of a model of L layers.

    sums: of the distances. influence, magnitude: (L,), summed over tokens. token_count: those tokens.
    groups: sums of the distances over the samples of each label, such as ("half", "first").
    vectors: {sample: (L+1, D) float32}, last-token states of the first samples.
    done: batches that are in, by number.
    """

    sums: MeanSums
    influence: np.ndarray
    magnitude: np.ndarray
    token_count: int = 0
    groups: dict[tuple[str, str], MeanSums] = field(default_factory=dict)
    vectors: dict[int, np.ndarray] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, layers: int) -> Measured:
        """Nothing measured yet."""
        return cls(MeanSums(layers * (layers + 1) // 2), np.zeros(layers), np.zeros(layers))

    @property
    def layers(self) -> int:
        return len(self.influence)

    def add(
        self, number: int, batch: Sequence[int], result: BatchResult, labels: Sequence[Sequence[tuple[str, str]]]
    ) -> None:
        """Take in batch `number`, of the samples `batch`; `labels` are those of every sample of the scan, or none."""
        self.sums.add(result.totals, result.weights)
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
        for label, some in rows.items():
            self._group(label).add(result.totals[some], result.weights[some])

    def merge(self, other: Measured) -> None:
        """Add what other samples of the same model gave."""
        self.sums.merge(other.sums)
        self.influence = self.influence + other.influence
        self.magnitude = self.magnitude + other.magnitude
        self.token_count += other.token_count
        self.vectors |= other.vectors
        self.done += other.done
        for label, sums in other.groups.items():
            self._group(label).merge(sums)

    def _group(self, label: tuple[str, str]) -> MeanSums:
        return self.groups.setdefault(label, MeanSums(self.sums.size))

    def keep(self, path: Path, fingerprint: str) -> None:
        """Write all of it to `path`, whole or not at all; `fingerprint` says of which scan it is."""
        arrays = {"influence": self.influence, "magnitude": self.magnitude, "done": np.array(self.done, dtype=np.int64)}
        names = [None, *self.groups]
        for place, sums in enumerate([self.sums, *self.groups.values()]):
            scalars = [sums.samples, sums.weight, sums.weight_square]
            arrays[f"sums{place}"] = np.stack([sums.total, sums.total_square, sums.total_weight])
            arrays[f"scalars{place}"] = np.array(scalars, dtype=np.float64)
        if self.vectors:
            arrays["vectors"] = np.stack(list(self.vectors.values()))
        head = {"scan": fingerprint, "tokens": self.token_count, "names": names, "vectors": list(self.vectors)}
        content = io.BytesIO()
        np.savez(content, head=np.array(json.dumps(head)), **arrays)  # type: ignore[arg-type]
        write_bytes(path, content.getvalue(), overwrite=True)

    @classmethod
    def restore(cls, path: Path, fingerprint: str) -> Measured | None:
        """What `keep` wrote; None if there is nothing there.

        Raises:
            RegrowthError: not such a file, or of another scan.
        """
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as kept:
                head = json.loads(str(kept["head"]))
                found = cls(_sums(kept, 0), kept["influence"], kept["magnitude"], int(head["tokens"]))
                found.done = kept["done"].tolist()
                for place, name in enumerate(head["names"]):
                    if name is not None:
                        found.groups[(name[0], name[1])] = _sums(kept, place)
                for row, sample in enumerate(head["vectors"]):
                    found.vectors[sample] = kept["vectors"][row]
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile):
            raise RegrowthError(f"--resume {path} is not a file that an interrupted scan has left; remove it") from None
        if head["scan"] != fingerprint:
            raise RegrowthError(f"--resume {path} is of another scan (model, text or options differ); remove it")
        return found


def _sums(kept: np.lib.npyio.NpzFile, place: int) -> MeanSums:
    rows, scalars = kept[f"sums{place}"], kept[f"scalars{place}"]
    sums = MeanSums(rows.shape[1], int(scalars[0]), float(scalars[1]), float(scalars[2]))
    sums.total, sums.total_square, sums.total_weight = rows
    return sums
