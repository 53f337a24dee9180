"""The cliff: at how many dropped layers accuracy falls to chance, as arXiv 2403.17887 draws it.

Retained is (accuracy - chance) / (full accuracy - chance), with Fieller's paired interval. The cliff is at the first
size whose whole interval lies below a half. Arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from eval.billing.statistics import Interval
from eval.billing.sweep import SweepRecord
from prune.common.files.artefact import Artefact, Part

HALF = 0.5


class CliffPoint(Part):
    """One cut on one task."""

    size: int = Field(description="layers dropped")
    share: float = Field(description="of all layers")
    accuracy: Interval = Field(description="share of questions")
    retained: Interval | None = Field(
        description="accuracy above chance as a share of the full model's; null for the full model, or where it has no "
        "end, since the full model is hardly above chance"
    )


class CliffLine(Part):
    """One way to cut, healed or not, on one task."""

    domain: str = Field(description="of the task")
    protocol: str = Field(description="of the task")
    way: str = Field(description="how the cuts were chosen: by similarity (the scan's best start), or deepest")
    healed: bool = Field(description="whether each cut has its adapter")
    n: int = Field(description="questions")
    chance: float = Field(description="accuracy of blind guesses")
    points: tuple[CliffPoint, ...] = Field(description="by size, the full model first")
    cliff: int | None = Field(
        description="first size whose whole interval of `retained` is below a half; null for none"
    )
    holds: int | None = Field(description="largest size before it whose whole interval is above a half; null for none")


class CliffProsePoint(Part):
    """One cut on held-out prose."""

    size: int = Field(description="layers dropped")
    share: float = Field(description="of all layers")
    nats_per_token: float = Field(description="mean loss")
    difference: Interval | None = Field(description="against the full model; null for it")


class CliffProse(Part):
    """One way to cut, healed or not, on held-out prose."""

    text: str = Field(description="name of the text")
    way: str = Field(description="how the cuts were chosen: by similarity (the scan's best start), or deepest")
    healed: bool = Field(description="whether each cut has its adapter")
    points: tuple[CliffProsePoint, ...] = Field(description="by size, the full model first")


class Cliffs(Artefact):
    """cliff.json."""

    AGAIN: ClassVar[str] = "make it again with `evaluate cliff`"

    format: Literal["regrowth.cliff/1"] = "regrowth.cliff/1"
    layers: int = Field(description="L")
    lines: tuple[CliffLine, ...] = Field(description="accuracy, by task and way")
    prose: tuple[CliffProse, ...] = Field(description="loss on held-out prose, by way")
    provenance: dict[str, Any] = Field(description="the model, the sweeps, versions, command")


def cliff_of(retained: Sequence[tuple[int, Interval | None]]) -> tuple[int | None, int | None]:
    """The cliff, and the largest size before it that surely holds, from (size, retained) by rising size.

    The cliff is the first size whose whole interval is below a half. A size holds whose whole interval is above a half.
    None for either that there is not: so where the full model is not above chance, and nothing can be retained.
    """
    cliff = next((size for size, kept in retained if kept is not None and kept.high < HALF), None)
    before = [(size, kept) for size, kept in retained if kept is not None and (cliff is None or size < cliff)]
    return cliff, max((size for size, kept in before if kept.low > HALF), default=None)


def lines_of(sweep: SweepRecord, way: str) -> list[CliffLine]:
    """The lines of one sweep: its cuts of one start a size, and those with an adapter, task by task."""
    lines = []
    for task in sweep.tasks:
        if task.chance is None:
            continue
        rows = [row for row in sweep.rows if (row.domain, row.protocol) == (task.domain, task.protocol)]
        for healed in (False, True):
            points = []
            for row in sorted(rows, key=lambda row: row.size):
                if row.size and (row.adapter is not None) != healed:
                    continue
                if row.accuracy is not None:
                    kept = None if row.versus is None else row.versus.retained_interval
                    points.append(
                        CliffPoint(size=row.size, share=row.size / sweep.layers, accuracy=row.accuracy, retained=kept)
                    )
            if len(points) < 2:
                continue
            cliff, holds = cliff_of([(point.size, point.retained) for point in points if point.size])
            about: dict[str, Any] = {"domain": task.domain, "protocol": task.protocol, "way": way, "healed": healed}
            lines.append(
                CliffLine(**about, n=task.n, chance=task.chance, points=tuple(points), cliff=cliff, holds=holds)
            )
    return lines


def prose_of(sweep: SweepRecord, way: str) -> list[CliffProse]:
    """The loss on each text of one sweep, of its cuts and of those with an adapter."""
    adapted = {variant.label for variant in sweep.variants if variant.adapter is not None}
    lines = []
    for text in dict.fromkeys(row.text for row in sweep.prose):
        for healed in (False, True):
            points = tuple(
                CliffProsePoint(
                    size=row.size,
                    share=row.size / sweep.layers,
                    nats_per_token=row.nats_per_token,
                    difference=row.difference,
                )
                for row in sorted(sweep.prose, key=lambda row: row.size)
                if row.text == text and (not row.size or (row.variant in adapted) == healed)
            )
            if len(points) > 1:
                lines.append(CliffProse(text=text, way=way, healed=healed, points=points))
    return lines
