"""The course of a run: held-out losses as it goes, which of them is the best, and when to give up. Pure arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from heal.models.held_out import Losses
from heal.result import Point


@dataclass
class Curve:
    """The points so far, the losses of the steps since the last of them, and how long all steps took.

    Attributes:
        seconds: of all steps, without measuring and saving.
        loss_tokens: of all steps, those that bore loss; None where a run goes on that did not count them.
        steady_steps, steady_seconds: the steps but the first after each start, which loads kernels besides.
        resumed: steps that the run was taken up at.
    """

    points: list[Point] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    seconds: float = 0.0
    loss_tokens: int | None = 0
    steady_steps: int = 0
    steady_seconds: float = 0.0
    resumed: list[int] = field(default_factory=list)

    def add_step(self, loss: float, seconds: float, *, loss_tokens: int, first: bool) -> None:
        """Note a step that was done; `first`: since the run was started or taken up."""
        self.since.append(loss)
        if self.loss_tokens is not None:
            self.loss_tokens += loss_tokens
        self.seconds += seconds
        if not first:
            self.steady_steps += 1
            self.steady_seconds += seconds

    def steps_per_second(self, steps: int) -> float:
        """The speed of training, `steps` steps having been done: that of the steady steps, if there is one."""
        return self.steady_steps / self.steady_seconds if self.steady_steps else steps / self.seconds

    def add(self, step: int, tokens: int, losses: Losses) -> Point:
        """Close the stretch since the last point."""
        mean = sum(self.since) / len(self.since) if self.since else None
        self.points.append(Point(step=step, tokens=tokens, loss=mean, held_out_loss=losses.loss, texts=losses.texts))
        self.since = []
        return self.points[-1]

    @property
    def best(self) -> Point:
        """The point of least held-out loss, the first of equals; step 0, before training, is one as well."""
        return min(self.points, key=lambda point: point.held_out_loss)

    def sane(self, step: int) -> bool:
        """Whether the last loss that was measured up to a step is no worse than the one before training."""
        return [point for point in self.points if point.step <= step][-1].held_out_loss <= self.points[0].held_out_loss

    def stale(self) -> int:
        """How many points have come since the best one."""
        return len(self.points) - 1 - self.points.index(self.best)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "points": [point.model_dump() for point in self.points]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Curve:
        points = [Point(**point) for point in document["points"]]
        return cls(**{"loss_tokens": None, **document, "points": points})
