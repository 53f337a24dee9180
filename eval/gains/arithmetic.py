"""From turns to gains: medians, ranges, ratios, and whose turn it is. Pure arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from eval.gains.orders import Turn
from eval.gains.record import GainRatios, ModelGains, Spread


def in_turn(labels: Sequence[str], rounds: int) -> Iterator[str]:
    """Whose turn it is: all models in their order, so many times. What slows the machine for a while slows all."""
    for _ in range(rounds):
        yield from labels


def spread(values: Sequence[float]) -> Spread:
    """Median and range.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("a median of no values")
    return Spread(median=float(statistics.median(values)), low=float(min(values)), high=float(max(values)))


def ratio_spread(values: Sequence[float], full: Sequence[float]) -> Spread:
    """Median and range of the ratios of each round.

    Raises:
        ValueError: not as many values of both, or none.
    """
    return spread([value / other for value, other in zip(values, full, strict=True)])


def model_gains(
    label: str, turns: Sequence[Turn], full: Sequence[Turn] | None, *, context: int, new_tokens: int, sequences: int
) -> ModelGains:
    """What a model's turns say, and those of the full one beside them (None: this is the full one, or it has none).

    Args:
        turns, full: one a round, in their order.
        context, new_tokens, sequences: of each turn.
    """
    first = turns[0]
    kept = first.cache_bytes / (sequences * (context + new_tokens))
    peaks = _peaks(turns)
    read, written = _rates(turns, context * sequences, "prefill"), _rates(turns, new_tokens * sequences, "decode")
    ratio = None
    if full is not None:
        other, other_peaks = full[0], _peaks(full)
        ratio = GainRatios(
            parameters=first.parameters / other.parameters,
            weight_bytes=first.weight_bytes / other.weight_bytes,
            kv_bytes_per_token=first.cache_bytes / other.cache_bytes if other.cache_bytes else None,
            peak_memory_bytes=ratio_spread(peaks, other_peaks) if peaks and other_peaks else None,
            prefill_tokens_per_second=ratio_spread(read, _rates(full, context * sequences, "prefill")),
            decode_tokens_per_second=ratio_spread(written, _rates(full, new_tokens * sequences, "decode")),
        )
    return ModelGains(
        model=label,
        parameters=first.parameters,
        weight_bytes=first.weight_bytes,
        kv_bytes_per_token=kept,
        peak_memory_bytes=spread(peaks) if peaks else None,
        prefill_tokens_per_second=spread(read),
        decode_tokens_per_second=spread(written),
        ratio=ratio,
    )


def all_gains(turns: Mapping[str, Sequence[Turn]], full: str, **sizes: int) -> tuple[ModelGains, ...]:
    """Those of all models that had their turns; `full`: the label of the full one, which may have none."""
    base = turns.get(full)
    return tuple(model_gains(label, each, None if label == full else base, **sizes) for label, each in turns.items())


def _rates(turns: Sequence[Turn], tokens: int, what: str) -> list[float]:
    return [tokens / getattr(turn, f"{what}_seconds") for turn in turns]


def _peaks(turns: Sequence[Turn]) -> list[float]:
    """Empty where one of them is not known."""
    known = [float(turn.peak_memory_bytes) for turn in turns if turn.peak_memory_bytes is not None]
    return known if len(known) == len(turns) else []
