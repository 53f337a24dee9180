"""Stations that need the whole model there, in 16 bits or in 4: questions, and a sweep of cuts. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from heal.budget.document import Gpu, Station, StationWay
from heal.budget.stations import READ, Chain, Line, Work, head_bytes, kind_of, room_of, way_of, width
from prune.models.at_once import WALK_TOKENS, at_once
from prune.models.memory.footprint import (
    forward_bytes,
    forward_flops,
    head_flops,
    resident_bytes,
    state_bytes,
)
from prune.models.memory.kv_cache import cache_bytes, full_attention
from prune.models.memory.shapes import LayerShape

_LAYER_SECONDS = 0.9e-3  # that a new token takes in a layer at least: starting kernels, whatever the card


def asking_line(name: str, chain: Chain, layers: Sequence[LayerShape], *, models: int) -> Line:
    """Questions to so many models, one at a time; `layers`: of the largest."""
    shape, amounts = chain.shape, chain.amounts
    needles, long = amounts.needle_trials, max(amounts.question_tokens, amounts.needle_tokens)
    tokens = amounts.questions * amounts.question_tokens
    of_models = "" if models == 1 else f"{models} models, each "
    station = Station(
        name=name,
        command=f"evaluate {name}",
        disk=models * 4096 * (amounts.questions + amounts.answers),
        states=0,
        sets=0,
        work=f"{of_models}{amounts.questions:,} questions of {amounts.question_tokens} tokens, {amounts.answers:,} "
        f"answers of {amounts.answer_tokens}, {f'{needles:,} needles in {long:,} tokens, ' if needles else ''}"
        f"{amounts.batch_size} at a time{', lm-eval tasks not counted' if amounts.tasks_too else ''}",
    )
    rounds = -(-(amounts.answers + needles) // amounts.batch_size)
    each = forward_flops(shape, layers, amounts.question_tokens) + head_flops(shape)
    hidden = needles * amounts.needle_tokens * forward_flops(shape, layers, amounts.needle_tokens)

    def passing(gpu: Gpu, wide: int, rows: int = amounts.batch_size) -> int:
        cached, batch = rows * (long + amounts.answer_tokens), rows * long
        beside = cache_bytes([full_attention(shape.key_value_heads, shape.head_width)] * len(layers), cached)
        return wide * (forward_bytes(shape, layers, batch) + beside) + head_bytes(gpu, shape, batch)

    def seconds(gpu: Gpu, weights: int) -> float:
        reading = (tokens * each + hidden) / (gpu.peak * gpu.share)
        token = max(weights / gpu.bandwidth, len(layers) * _LAYER_SECONDS)
        return models * (weights / READ + reading + rounds * amounts.answer_tokens * token)

    # where memory runs out, rows are halved
    return Line(station, _whole(chain, station, layers, passing, lambda gpu, wide: passing(gpu, wide, 1), seconds))


def sweep_line(chain: Chain) -> Line:
    """All cuts in one walk, which share the layers below them."""
    shape, amounts = chain.shape, chain.amounts
    tokens = amounts.questions * amounts.question_tokens
    station = Station(
        name="sweep",
        command="evaluate sweep",
        disk=amounts.cuts * 256 * amounts.questions,
        states=0,
        sets=0,
        work=f"{amounts.cuts} cuts, {amounts.questions:,} questions of {amounts.question_tokens} tokens, half of the "
        "layers anew for each cut",
    )
    each = forward_flops(shape, shape.layers, amounts.question_tokens) * (1 + amounts.cuts / 2)
    flops = tokens * (each + head_flops(shape) * (1 + amounts.cuts))

    def passing(gpu: Gpu, wide: int) -> int:
        batch = at_once(WALK_TOKENS, kind_of(gpu))
        states = (amounts.cuts + 1) * state_bytes(shape, batch)
        return wide * (forward_bytes(shape, shape.layers, batch) + states) + head_bytes(gpu, shape, batch)

    def seconds(gpu: Gpu, weights: int) -> float:
        return weights / READ + flops / (gpu.peak * gpu.share)

    return Line(station, _whole(chain, station, shape.layers, passing, passing, seconds))


def _whole(
    chain: Chain,
    station: Station,
    layers: Sequence[LayerShape],
    work: Work,
    least_work: Work,
    seconds: Callable[[Gpu, int], float],
) -> Callable[[Gpu], StationWay]:
    """The way of a station that needs the whole model there: in 16 bits, if need be with fewer rows, or else in 4.

    Args:
        work, least_work: bytes that a batch takes, and the smallest one.
    """
    shape = chain.shape

    def on(gpu: Gpu) -> StationWay:
        room, wide = room_of(gpu), width(gpu, chain.dtype, shape.stored_bytes, shape.values)
        whole = wide * resident_bytes(shape, layers)
        packed = resident_bytes(shape, layers, 4) + (wide - 1) * 2 * shape.outside
        passes = (work(gpu, wide), least_work(gpu, wide))
        for passing in passes if not chain.in_4bit else ():
            if whole + passing <= room:
                return way_of(station, "resident", whole + passing, seconds(gpu, whole))
        needs = "" if chain.in_4bit else "--load-in-4bit"
        for passing in passes:
            if packed + passing <= room:
                return way_of(station, "4 bits", packed + passing, seconds(gpu, packed), needs=needs)
        return way_of(station, "none", packed + passes[-1], 0.0)

    return on
