"""The result of a scan, and scan.json ("regrowth.scan/1"), which keeps it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.common.errors import CheckpointError
from prune.common.layers import best_start
from prune.common.outputs import write_json
from prune.common.provenance import read_artefact

if TYPE_CHECKING:
    pass

FORMAT = "regrowth.scan/1"
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Best:
    """The best block of size n: layers start .. start+n-1, 0-based."""

    n: int
    start: int
    distance: float


@dataclass(frozen=True)
class Group:
    """A part of the samples, and the best start for it of every size n = 1 .. L-1 (the last layer kept).

    kind: "half" (first, second), "source" (of several texts) or "ending" (whole documents, cut inside a document).
    """

    kind: str
    name: str
    samples: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Scan:
    """Angular distances between layer inputs, for all blocks of one model on one sample of text.

    layers: L. tokens: "last" or "all", the tokens averaged over. samples: how many were measured.
    length: most tokens a sample could have.
    distance: row n-1 holds d(l, n) for l = 0 .. L-n, each in [0, 1]. stderr: same shape, standard error of the
    mean over samples, NaN (null in JSON) where there was one sample only.
    influence: 1 - mean cos(x[l], x[l+1]) over all non-padding tokens, for l = 0 .. L-1.
    provenance: model, text, seed, versions, command.
    magnitude: mean |x[l+1] - x[l]| / |x[l+1]| over all non-padding tokens, for l = 0 .. L-1 (arXiv 2312.09299).
    cka: same shape as distance, debiased linear CKA of x[l] and x[l+n] at the last token over the first 256 samples
    (`prune.scanning.cka`); NaN (null in JSON) for fewer than 4.
    groups: what the best blocks are for parts of the samples. These three are empty in a scan.json of before.
    """

    layers: int
    tokens: str
    samples: int
    length: int
    distance: Rows
    stderr: Rows
    influence: tuple[float, ...]
    provenance: dict[str, Any]
    magnitude: tuple[float, ...] = ()
    cka: Rows = ()
    groups: tuple[Group, ...] = ()

    @property
    def best(self) -> tuple[Best, ...]:
        """The best block of every size 1 .. L-1; the last layer is kept."""
        return tuple(
            Best(n, start, self.distance[n - 1][start])
            for n in range(1, self.layers)
            for start in [best_start(self.distance[n - 1], self.layers, n)]
        )

    def to_json(self) -> dict[str, Any]:
        """The document that scan.json holds."""
        return {
            "format": FORMAT,
            "layers": self.layers,
            "tokens": self.tokens,
            "samples": self.samples,
            "length": self.length,
            "distance": [list(row) for row in self.distance],
            "stderr": _nullable(self.stderr),
            "influence": list(self.influence),
            "magnitude": list(self.magnitude),
            "cka": _nullable(self.cka),
            "groups": [{**vars(group), "starts": list(group.starts)} for group in self.groups],
            "best": [{"n": b.n, "start": b.start, "distance": b.distance} for b in self.best],
            "provenance": self.provenance,
        }

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write scan.json whole or not at all; refuses to replace a file without `overwrite`."""
        write_json(path, self.to_json(), overwrite=overwrite)

    @classmethod
    def read(cls, path: str | Path) -> Scan:
        """Read and check scan.json.

        Raises:
            CheckpointError: missing, of another format, or with a value that no scan can have.
        """
        document = read_artefact(path, FORMAT)
        try:
            return _checked(document)
        except _DamageError as damage:
            raise CheckpointError(f"{path} is damaged ({damage}); scan again") from None


class _DamageError(ValueError):
    """What is wrong with a scan's document."""


def _checked(document: dict[str, Any]) -> Scan:
    layers = _whole(document, "layers", 1)
    samples = _whole(document, "samples", 1)
    length = _whole(document, "length", 1)
    tokens = document.get("tokens")
    if tokens not in ("last", "all"):
        raise _DamageError(f"tokens is {tokens!r}, neither 'last' nor 'all'")
    distance = _triangle(document, "distance", layers, most=1.0)
    stderr = _triangle(document, "stderr", layers, most=1.0, nullable=True)
    influence = _numbers(document.get("influence"), "influence", layers, most=2.0 + 1e-9)
    magnitude, cka, groups = document.get("magnitude"), document.get("cka"), document.get("groups") or []
    if magnitude:
        magnitude = _numbers(magnitude, "magnitude", layers, most=math.inf)
    if cka:
        cka = _triangle(document, "cka", layers, most=1.0, least=-math.inf, nullable=True)
    provenance = document.get("provenance")
    if not isinstance(provenance, dict):
        raise _DamageError("provenance is missing")
    scan = Scan(
        layers,
        tokens,
        samples,
        length,
        distance,
        stderr,
        influence,
        provenance,
        tuple(magnitude or ()),
        tuple(cka or ()),
        _groups(groups, layers),
    )
    if document.get("best") != scan.to_json()["best"]:
        raise _DamageError("best does not follow from distance")
    return scan


def _whole(document: dict[str, Any], name: str, least: int) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise _DamageError(f"{name} is {value!r}, not a whole number of at least {least}")
    return value


def _nullable(rows: Rows) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in rows]


def _groups(groups: Any, layers: int) -> tuple[Group, ...]:
    try:
        found = tuple(Group(g["kind"], g["name"], g["samples"], tuple(g["starts"])) for g in groups)
        whole = all(type(value) is int for g in found for value in (g.samples, *g.starts))
        sane = whole and all(
            isinstance(g.kind, str)
            and isinstance(g.name, str)
            and len(g.starts) == layers - 1
            and all(0 <= start <= layers - 1 - n for n, start in enumerate(g.starts, start=1))
            for g in found
        )
    except (KeyError, TypeError):
        sane = False
    if not sane:
        raise _DamageError("groups does not fit the layers")
    return found


def _triangle(
    document: dict[str, Any],
    name: str,
    layers: int,
    *,
    most: float,
    least: float = -1e-9,
    nullable: bool = False,
) -> Rows:
    rows = document.get(name)
    if not isinstance(rows, list) or len(rows) != layers:
        found = len(rows) if isinstance(rows, list) else "no"
        raise _DamageError(f"{name} has {found} rows, not {layers}")
    return tuple(
        _numbers(row, f"{name} of size {n}", layers - n + 1, most=most, least=least, nullable=nullable)
        for n, row in enumerate(rows, start=1)
    )


def _numbers(
    values: Any, name: str, count: int, *, most: float, least: float = -1e-9, nullable: bool = False
) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != count:
        found = len(values) if isinstance(values, list) else "no"
        raise _DamageError(f"{name} has {found} values, not {count}")
    for place, value in enumerate(values):
        if value is None and nullable:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
            raise _DamageError(f"{name}, value {place} is {value!r}, not a number from 0 to {most:g}")
    return tuple(math.nan if value is None else float(value) for value in values)
