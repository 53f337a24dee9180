"""The result of a scan, and scan.json, which keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, computed_field, model_validator

from prune.common.files.artefact import Artefact, OptionalFloat, Part
from prune.common.layers import best_start

Rows = tuple[tuple[float, ...], ...]
_ROUNDING = 1e-9


class Best(Part):
    """The best block of one size: layers start .. start+n-1, 0-based."""

    n: int = Field(description="how many layers the block has")
    start: int = Field(description="its first layer, 0-based")
    distance: float = Field(description="d(start, n)")


class Group(Part):
    """A part of the samples, and the best block of every size for it."""

    kind: str = Field(
        description="`half` of the sample, `source` (one of several texts), or `ending` (whole documents, or windows "
        "cut inside one)"
    )
    name: str = Field(description="which of that kind")
    samples: int = Field(description="how many samples it has")
    starts: tuple[int, ...] = Field(description="the best start of n = 1 .. L-1, the last layer kept")


class Scan(Artefact):
    """Angular distances between layer inputs, for all blocks of one model on one sample of text."""

    AGAIN: ClassVar[str] = "scan again with `prune scan`"

    format: Literal["regrowth.scan/2"] = "regrowth.scan/2"
    layers: int = Field(ge=1, description="L")
    tokens: Literal["last", "all"] = Field(
        description="`last`: the last non-padding token of each sample; `all`: every non-padding token"
    )
    samples: int = Field(
        ge=1,
        description="how many windows were measured: one of each document, then further ones of the longer documents",
    )
    length: int = Field(ge=1, description="their greatest length in tokens")
    distance: Rows = Field(
        description="row n-1 holds d(l, n) for l = 0 .. L-n; angular distance in [0, 1] (arXiv 2403.17887, equation 7)"
    )
    stderr: tuple[tuple[OptionalFloat, ...], ...] = Field(
        description="the shape of `distance`: standard error over samples; null where there was one sample"
    )
    influence: tuple[float, ...] = Field(
        description="L numbers: 1 - mean cos(x[l], x[l+1]) over all non-padding tokens"
    )
    magnitude: tuple[float, ...] = Field(
        default=(),
        description="L numbers: mean of the length of x[l+1] - x[l] over that of x[l+1], over all non-padding tokens "
        "(arXiv 2312.09299); or empty",
    )
    cka: tuple[tuple[OptionalFloat, ...], ...] = Field(
        default=(),
        description="the shape of `distance`: debiased linear CKA of x[l] and x[l+n] at the last token, over the first "
        "256 samples; null for fewer than 4; or empty",
    )
    groups: tuple[Group, ...] = Field(default=(), description="what the best blocks are for parts of the samples")
    provenance: dict[str, Any] = Field(
        description="model, text (a list of several), seed, versions, command; `bits` and `streamed` where they apply"
    )

    @computed_field(  # type: ignore[prop-decorator]
        description="the block of least distance for each n that keeps the last layer"
    )
    @property
    def best(self) -> tuple[Best, ...]:
        """The best block of every size 1 .. L-1; the last layer is kept."""
        starts = [best_start(self.distance[n - 1], self.layers, n) for n in range(1, self.layers)]
        return tuple(
            Best(n=n, start=start, distance=self.distance[n - 1][start]) for n, start in enumerate(starts, start=1)
        )

    @model_validator(mode="after")
    def _fits_the_layers(self) -> Scan:
        _check_triangle("distance", self.distance, self.layers)
        _check_triangle("stderr", self.stderr, self.layers, optional=True)
        _check_row("influence", self.influence, self.layers, most=2.0 + _ROUNDING)
        if self.magnitude:
            _check_row("magnitude", self.magnitude, self.layers, most=math.inf)
        if self.cka:
            _check_triangle("cka", self.cka, self.layers, least=-math.inf, optional=True)
        for group in self.groups:
            fits = all(0 <= start <= self.layers - 1 - n for n, start in enumerate(group.starts, start=1))
            if len(group.starts) != self.layers - 1 or not fits:
                raise ValueError(f"the starts of group {group.name} do not fit {self.layers} layers")
        return self


def _check_triangle(name: str, rows: Rows, layers: int, *, least: float = -_ROUNDING, optional: bool = False) -> None:
    if len(rows) != layers:
        raise ValueError(f"{name} has {len(rows)} rows, not {layers}")
    for n, row in enumerate(rows, start=1):
        _check_row(f"{name} of size {n}", row, layers - n + 1, least=least, most=1.0, optional=optional)


def _check_row(
    name: str, values: Sequence[float], count: int, *, least: float = -_ROUNDING, most: float, optional: bool = False
) -> None:
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values, not {count}")
    for index, value in enumerate(values):
        if not least <= value <= most and not (optional and math.isnan(value)):
            raise ValueError(f"{name}, value {index} is {value!r}, not a number from {max(least, 0):g} to {most:g}")
