"""The frontier: what each cut loses against what it gives, which cuts no other beats, and the most that may go.

Arithmetic alone, on the rows of comparisons. A loss is positive, and its interval is the paired one of the bill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from eval.billing.judging.verdict import GO, NO_GO
from eval.billing.noise import Noise
from eval.billing.rows.bill import DomainRow
from eval.billing.statistics import Interval
from eval.gains.record import Gains, ModelGains, Spread
from prune.common.files.artefact import Artefact, Part
from prune.common.layers import spell_layers
from prune.common.sizes import spell_size

Measure = Literal["accuracy", "answer_bits_per_byte"]
_OF_BILL: dict[Measure, str] = {"accuracy": "accuracy", "answer_bits_per_byte": "answer_nll_bits_per_byte"}


class Decision(Part):
    """What a policy says of one model."""

    decision: str = Field(description="GO, NO-GO or INCONCLUSIVE")
    sentence: str = Field(description="why")


class FrontierPoint(Part):
    """A model: what it takes and how fast it is."""

    model: str = Field(description="its label")
    dropped: tuple[int, ...] | None = Field(description="layers that its cut took; null where it names none")
    weight_bytes: int = Field(description="of its weights, loaded")
    weight_ratio: float = Field(description="to the full model's")
    kv_bytes_per_token: float = Field(description="of its KV cache")
    decode_tokens_per_second: Spread = Field(description="as measured beside the full model of its comparison")
    decode_ratio: Spread = Field(description="to that full model, of the same round")
    prefill_ratio: Spread = Field(description="the same of reading a prompt")
    verdict: Decision | None = Field(description="by the policy; null for the full model, or without a policy")


class FrontierLoss(Part):
    """What a model lost on one task, by one measure."""

    model: str = Field(description="its label")
    domain: str = Field(description="of the task")
    protocol: str = Field(description="of the task")
    measure: Measure = Field(description="accuracy as a share of 1, or bits of answer NLL per byte of right answers")
    loss: Interval | None = Field(description="against the full model; null for it: it loses nothing")
    n: int = Field(description="questions")
    at_chance: bool = Field(description="the full model is not above chance beyond doubt: accuracy tells little")
    noise: float | None = Field(
        description="half of the grey band: so large a change may be noise; null where its comparison measured no noise"
    )
    is_noise: bool = Field(description="the bill calls the change noise; false where none was measured")
    best_of_bytes: bool = Field(description="no model of as few bytes or fewer loses less: a Pareto point")
    best_of_speed: bool = Field(description="no model that writes as fast or faster loses less")


class Frontier(Artefact):
    """frontier.json."""

    AGAIN: ClassVar[str] = "make it again with `evaluate frontier`"

    format: Literal["regrowth.frontier/2"] = "regrowth.frontier/2"
    points: tuple[FrontierPoint, ...] = Field(description="the full model first, then by falling bytes")
    losses: tuple[FrontierLoss, ...] = Field(description="by task, measure and model")
    measured_on: str = Field(description="device, prompt and batch of the speeds")
    policy: str | None = Field(description="the policy's file, or `--max-loss`; null for none")
    most: str | None = Field(description="model of fewest bytes that the policy lets pass; null for none")
    sentence: str = Field(description="the most that may go, in words")
    provenance: dict[str, Any] = Field(description="the comparisons, versions, command")

    def point(self, model: str) -> FrontierPoint:
        """A model's point, by its label."""
        return next(point for point in self.points if point.model == model)


def unbeaten(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (cost, loss) are Pareto points: none is as good in both and better in one. Less is better."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] <= other[1] and one != other

    return [not any(beats(other, point) for other in points) for point in points]


def point_of(label: str, gains: ModelGains, dropped: tuple[int, ...] | None, verdict: Decision | None) -> FrontierPoint:
    """A model's point; one that has no ratio is the full model itself."""
    itself = Spread(median=1.0, low=1.0, high=1.0)
    ratio = gains.ratio
    return FrontierPoint(
        model=label,
        dropped=dropped,
        weight_bytes=gains.weight_bytes,
        weight_ratio=1.0 if ratio is None else ratio.weight_bytes,
        kv_bytes_per_token=gains.kv_bytes_per_token,
        decode_tokens_per_second=gains.decode_tokens_per_second,
        decode_ratio=itself if ratio is None else ratio.decode_tokens_per_second,
        prefill_ratio=itself if ratio is None else ratio.prefill_tokens_per_second,
        verdict=verdict,
    )


def losses_of(
    rows: Sequence[DomainRow], points: Mapping[str, FrontierPoint], noise: Mapping[str, Noise | None] | None = None
) -> tuple[FrontierLoss, ...]:
    """The losses of all models that have a point, task by task, with the Pareto points marked.

    A task that only some of the models were asked is compared among these.

    Args:
        noise: label of a model -> the noise floor of the comparison that it stands in.
    """
    floors = {
        (label, row.domain, row.protocol): row
        for label, measured in (noise or {}).items()
        for row in (measured.rows if measured else ())
    }
    tasks = dict.fromkeys((row.domain, row.protocol) for row in rows)
    found: list[FrontierLoss] = []
    for domain, protocol in tasks:
        asked = [row for row in rows if (row.domain, row.protocol) == (domain, protocol) and row.model in points]
        blind = any(row.versus is not None and not row.versus.full_above_chance for row in asked)
        for measure in _OF_BILL:
            losses = [_loss(row, measure) for row in asked]
            lost = [0.0 if loss is None else loss.estimate for loss in losses]
            sizes = [float(points[row.model].weight_bytes) for row in asked]
            speeds = [-points[row.model].decode_ratio.median for row in asked]
            marks = zip(*(unbeaten(list(zip(costs, lost, strict=True))) for costs in (sizes, speeds)), strict=True)
            for row, loss, (of_bytes, of_speed) in zip(asked, losses, marks, strict=True):
                floor = None if loss is None else floors.get((row.model, domain, protocol))
                found.append(
                    FrontierLoss(
                        model=row.model,
                        domain=domain,
                        protocol=protocol,
                        measure=measure,
                        loss=loss,
                        n=row.n,
                        at_chance=blind,
                        noise=None if floor is None else getattr(floor, _OF_BILL[measure]).band,
                        is_noise=row.versus is not None and _difference(measure) in (row.versus.noise or ()),
                        best_of_bytes=of_bytes,
                        best_of_speed=of_speed,
                    )
                )
    return tuple(found)


def _loss(row: DomainRow, measure: Measure) -> Interval | None:
    if row.versus is None:
        return None
    change: Interval | None = getattr(row.versus, _difference(measure))
    return change.negated if change is not None and measure == "accuracy" else change


def _difference(measure: Measure) -> str:
    return f"{_OF_BILL[measure]}_difference"


def most_within(points: Sequence[FrontierPoint]) -> FrontierPoint | None:
    """The cut of fewest bytes that the policy lets pass; None where it lets none."""
    passing = [point for point in points if point.verdict is not None and point.verdict.decision == GO]
    return min(passing, key=lambda point: (point.weight_bytes, -point.decode_ratio.median), default=None)


def most_in_words(points: Sequence[FrontierPoint], policy: str | None) -> str:
    """The most that may go within the policy, and what the policy says of the cuts beyond it."""
    judged = [point for point in points if point.verdict is not None]
    if policy is None or not judged:
        return "No policy was given: with --policy or --max-loss this says the most that may go within it."
    most = most_within(points)
    smaller = [point for point in judged if most is None or point.weight_bytes < most.weight_bytes]
    smaller.sort(key=lambda point: -point.weight_bytes)
    if most is None:
        told = [f"No cut passes {policy}, so nothing may go by these measurements."]
    else:
        told = [f"The most you can drop within {policy} is {_cut(most)}: {_gains(most)}.", f"By it {_why(most)}."]
    for decision, words in (("INCONCLUSIVE", "These questions cannot decide on"), (NO_GO, "Beyond it is")):
        named = [point for point in smaller if point.verdict is not None and point.verdict.decision == decision]
        if named:
            others = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
            told.append(f"{words} {named[0].model}{others}: {_why(named[0])}.")
    return " ".join(told)


def _why(point: FrontierPoint) -> str:
    """What the policy says of a model, without the decision."""
    return "" if point.verdict is None else point.verdict.sentence.partition(": ")[2]


def _cut(point: FrontierPoint) -> str:
    if not point.dropped:
        return point.model
    return f"{point.model}, {len(point.dropped)} layers less ({spell_layers(point.dropped)})"


def _gains(point: FrontierPoint) -> str:
    ratio = point.decode_ratio
    return (
        f"{weight_words(point.weight_bytes)} of weights, {100 * (1 - point.weight_ratio):.0f} % less, and "
        f"{ratio.median:.2f} times the speed of writing ({ratio.low:.2f} to {ratio.high:.2f} over the rounds)"
    )


def weight_words(size: int) -> str:
    """Bytes of weights, in MiB up to 2 GiB: small models differ by little."""
    return f"{size / 2**20:,.0f} MiB" if size < 2**31 else spell_size(size)


def on_what(gains: Gains) -> str:
    """How the speeds were measured, in one line."""
    return (
        f"{gains.engine} on {gains.device}, {gains.sequences} prompt{'s' * (gains.sequences > 1)} of {gains.context} "
        f"tokens, {gains.new_tokens} written, {gains.rounds} rounds in turn"
    )
