"""Gains that a policy asks for, against those that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.billing.judging.policy import SMALLER_IS_BETTER, GainName, Policy
from eval.billing.statistics import Interval
from eval.gains.record import Gains

_FIELDS: dict[GainName, str] = {
    "parameters": "parameters",
    "weight_bytes": "weight_bytes",
    "kv_bytes": "kv_bytes_per_token",
    "peak_memory": "peak_memory_bytes",
    "prefill": "prefill_tokens_per_second",
    "decode": "decode_tokens_per_second",
}
_WORDS = {
    "parameters": "parameters",
    "weight_bytes": "weight bytes",
    "kv_bytes": "KV bytes a token",
    "peak_memory": "peak memory",
    "prefill": "prefill speed",
    "decode": "decode speed",
}


@dataclass(frozen=True)
class GainAsked:
    """A gain that has to be reached: `ratio` of at most `limit` for bytes and parameters, at least for speeds.

    `ratio` is to the full model, with the least and greatest of the rounds; None where it was not measured.
    """

    model: str
    name: str
    ratio: Interval | None
    limit: float
    decision: str | None = None

    @property
    def shortfall(self) -> Interval | None:
        """How far the ratio is on the wrong side of the limit; reached at 0 and below."""
        if self.ratio is None:
            return None
        ratio = self.ratio if self.name in SMALLER_IS_BETTER else self.ratio.negated
        limit = self.limit if self.name in SMALLER_IS_BETTER else -self.limit
        return Interval(ratio.estimate - limit, ratio.low - limit, ratio.high - limit)

    def in_words(self) -> str:
        """`cut has 0.81x of the full model's weight bytes, and at most 0.75x is asked`."""
        what = _WORDS[self.name]
        asked = f"{'at most' if self.name in SMALLER_IS_BETTER else 'at least'} {self.limit:g}x is asked"
        if self.ratio is None:
            return f"{self.model}: its {what} could not be measured, and {asked}"
        scatter = "" if self.ratio.low == self.ratio.high else f" [{self.ratio.low:.2f}, {self.ratio.high:.2f}]"
        return f"{self.model} has {self.ratio.estimate:.2f}x{scatter} of the full model's {what}, and {asked}"


def gains_asked(policy: Policy, gains: Gains | None, models: Sequence[str]) -> list[GainAsked]:
    """Each gain that the policy asks for, of each model but the full one."""
    return [
        GainAsked(label, name, _ratio(gains, label, name), limit)
        for label in models
        for name, limit in policy.gains.items()
    ]


def _ratio(gains: Gains | None, label: str, name: GainName) -> Interval | None:
    measured = None if gains is None else gains.of(label)
    if measured is None or measured.ratio is None:
        return None
    found = getattr(measured.ratio, _FIELDS[name])
    if found is None or isinstance(found, float):
        return None if found is None else Interval(found, found, found)
    return Interval(found.median, found.low, found.high)
