"""What healing costs in memory and time, estimated before anything is loaded: pure arithmetic, in bytes and FLOPs.

Memory is counted as the run allocates it: frozen weights (quantised or bf16), an fp32 adapter with its gradient and
Adam's two moments, what autograd keeps of each layer, and one chunk of logits. Time is FLOPs over an assumed share of
a GPU's peak: an expectation, no measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from heal.budget.document import BudgetSettings, Gpu, Memory
from heal.models.targets import plays
from heal.settings import BITS
from prune.common.errors import UsageError
from prune.models.at_once import FLOATS, LOGITS, at_once
from prune.models.memory.footprint import (
    GIB,
    forward_flops,
    head_flops,
    passing_bytes,
    saved_bytes,
    scale_bytes,
    score_flops,
    state_bytes,
    weight_bytes,
)
from prune.models.memory.shapes import LayerShape, ModelShape

_METHODS = ("qlora", "distill")
_ADAPTER = 4  # bytes: adapters, their gradients and both of Adam's moments are fp32
_ALLOCATOR = 0.04  # of a GPU's memory, lost to fragments and rounding
_CONTEXT = 0.75 * GIB  # of a GPU's memory, taken by CUDA, its kernels and cuBLAS' workspace


class Job(BudgetSettings):
    """What is asked for; adapters sit on the layers from `kept[first]` on."""

    kept: tuple[int, ...] = Field(description="layers of the full model that stay")
    cuda: bool = Field(default=True, description="memory is a GPU's; on a CPU, dropout keeps its mask in fp32")
    wide: bool = Field(default=False, description="products are in float32, as on a CPU that has none in bf16")

    @property
    def tokens(self) -> int:
        """Of one forward pass."""
        return self.length * self.batch_size

    def but(self, **changes: Any) -> Job:
        return self.model_copy(update=changes)


def kept_layers(layers: int, n: int, start: int | None = None) -> tuple[int, ...]:
    """Layers (0-based) that a cut of `n` leaves: the block at `start`, or the deepest that keeps the last layer.

    Raises:
        UsageError: no such block.
    """
    start = max(0, layers - 1 - n) if start is None else start
    if n < 0 or start < 0 or start + n > layers or n >= layers:
        raise UsageError(f"--n {n}: no block of so many layers from layer {start} in a model of {layers}")
    return tuple(layer for layer in range(layers) if not start <= layer < start + n)


def memory_of(shape: ModelShape, job: Job) -> Memory:
    """Bytes at the peak of a step."""
    loaded = _loaded(shape, job)
    kept = [shape.layers[i] for i in job.kept]
    weights = weight_bytes(loaded, shape.outside, job.bits)
    adapter = adapter_bytes(shape, job)
    trained = kept[job.first :]
    saved = [_saved(shape, layer, job) for layer in trained]
    passing = max((passing_bytes(shape, layer, job.bits, job.tokens) for layer in trained), default=0)
    quantisation = sum(scale_bytes(linear, job.bits) for layer in loaded for linear in layer.linears)
    stored = shape.stored_bytes * (sum(layer.values for layer in loaded) + shape.outside) // shape.values
    state = state_bytes(shape, job.tokens)
    ends = 3 * state  # the last states, their normalised copy and its gradient
    if job.method == "distill":
        ends += 2 * state  # the teacher's, and where it and the student part
    if job.checkpointing:
        activations = state * len(trained) + ends
        at_once = max(saved, default=0) + passing
    else:
        activations = sum(saved) + ends
        at_once = passing
    return Memory(
        weights=weights,
        quantisation=quantisation,
        adapter=adapter,
        optimiser=3 * adapter,
        # and which token of a packed row sees which: a truth value each, made once for all layers
        activations=activations + job.batch_size * job.length**2,
        layer=at_once,
        logits=_logits(shape, job),
        loading=weights + quantisation + (4 * shape.largest if job.cuda else stored),
    )


def needed(shape: ModelShape, job: Job) -> int:
    """Bytes at the peak. On a CPU the files that are mapped while they are read can go at any time, and do not count.

    In float32, where there are no bf16 products, states are twice as wide, and so are the weights that are not
    quantised: embeddings and head too. What is quantised, the adapter and its optimiser are not.
    """
    memory = memory_of(shape, job)
    peak = memory.total if job.cuda else memory.step
    if not job.wide:
        return peak
    linear = sum(linear.values for layer in _loaded(shape, job) for linear in layer.linears)
    packed = linear * job.bits // 8 if job.bits < 16 else 0
    return peak + memory.weights - packed + memory.activations + max(memory.layer, memory.logits)


def _loaded(shape: ModelShape, job: Job) -> tuple[LayerShape, ...]:
    """The layers that stand in memory."""
    return shape.layers if job.method == "distill" else tuple(shape.layers[i] for i in job.kept)


def flops_per_token(shape: ModelShape, job: Job) -> float:
    """Of a training step, adapters, attention scores, head, recomputation and teacher included."""
    kept = [shape.layers[i] for i in job.kept]
    scores, head = score_flops(shape, job.length), head_flops(shape)

    def forward(layers: list[LayerShape]) -> float:
        return forward_flops(shape, layers, job.length)

    trained = kept[job.first :]
    adapters = float(sum(_adapter_values(layer, job) for layer in trained))
    backward = forward(trained) + scores * len(trained)  # by the inputs alone: the weights are frozen
    again = forward(trained) + 2 * adapters if job.checkpointing else 0.0
    total = forward(kept) + backward + again + 6 * adapters + 2 * head
    if job.method == "distill":
        shared = next((i for i, layer in enumerate(job.kept) if i != layer or i >= job.first), len(kept))
        total += forward(list(shape.layers)) - forward(kept[:shared]) + head
    return total


def healing_parts(shape: ModelShape, job: Job, tokens: int) -> dict[str, Any]:
    """Of a budget: what healing on so many tokens holds, with and without checkpointing, and its FLOPs."""
    flops = flops_per_token(shape, job)
    other = memory_of(shape, job.but(checkpointing=not job.checkpointing))
    return {
        "model": shape.name,
        "layers": len(shape.layers),
        "parameters": shape.values,
        "stored": shape.stored_bytes,
        "kept": job.kept,
        "settings": job,  # written without what only a job has
        "tokens": tokens,
        "memory": memory_of(shape, job),
        "memory_without_checkpointing": other if job.checkpointing else None,
        "memory_with_checkpointing": None if job.checkpointing else other,
        "flops_per_token": flops,
    }


def healing_on(shape: ModelShape, job: Job, gpu: Gpu, tokens: int, room: int) -> dict[str, Any]:
    """Of a fit on a card with so many bytes of room: what healing makes of it."""
    rate = gpu.peak * gpu.share / flops_per_token(shape, job)

    def fits(rows: int, length: int) -> bool:
        return needed(shape, job.but(batch_size=rows, length=length)) <= room

    longest = 128 * _most(lambda pieces: fits(1, 128 * pieces))
    return {
        "gpu": gpu,
        "memory": needed(shape, job),
        "holds": fits(job.batch_size, job.length),
        "rows": _most(lambda rows: fits(rows, job.length)),
        "longest": min(longest, shape.context or longest),
        "tokens_per_second": rate,
        "hours": tokens / rate / 3600,
    }


def usable(memory: int) -> int:
    """What a card of so many bytes leaves for tensors."""
    return int(memory * (1 - _ALLOCATOR) - _CONTEXT)


def spread_memory(memories: Sequence[int]) -> int:
    """Bytes of the one card that would leave as much for tensors as several do together."""
    return int((sum(map(usable, memories)) + _CONTEXT) / (1 - _ALLOCATOR))


def _most(fits: Any) -> int:
    """The largest whole number that fits, up to 65536; 0 if 1 does not."""
    low, high = 0, 1
    while high <= 65536 and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def adapter_bytes(shape: ModelShape, job: Job) -> int:
    """Of the adapter as it is trained and saved, in fp32."""
    return sum(_adapter_values(shape.layers[i], job) for i in job.kept[job.first :]) * _ADAPTER


def _adapter_values(layer: LayerShape, job: Job) -> int:
    return sum(job.rank * (linear.inputs + linear.outputs) for linear in layer.linears if plays(job.role, linear.path))


def _saved(shape: ModelShape, layer: LayerShape, job: Job) -> int:
    """Bytes that autograd keeps of one layer's forward pass until its backward pass."""
    token = saved_bytes(shape, layer, job.bits, job.length)
    mask = 0 if job.dropout == 0 else 1 if job.cuda else 4
    for linear in layer.linears:
        if plays(job.role, linear.path):  # its input in fp32, after dropout; the mask; what A gives
            token += (4 + mask) * linear.inputs + 4 * job.rank
    return token * job.tokens


def _logits(shape: ModelShape, job: Job) -> int:
    device = "cuda" if job.cuda else "cpu"  # in chunks, as heal.models.losses takes them
    numbers = min(max(64, at_once(LOGITS, device) // shape.vocabulary), job.tokens) * shape.vocabulary
    wide = min(numbers, at_once(FLOATS, device))
    if job.method == "qlora":
        return numbers * 4 + wide * 4  # logits and their slope; chances in fp32
    return numbers * 8 + wide * 16  # both logits, the slope; fp32


def check_job(shape: ModelShape, job: Job) -> None:
    """Refuse what no model, or not this one, can be healed with.

    Raises:
        UsageError: a method, bits, a rank or a length that cannot be.
    """
    if job.method not in _METHODS:
        raise UsageError(f"--method {job.method} is unknown; use {' or '.join(_METHODS)}")
    if job.bits not in BITS:
        raise UsageError(f"--bits {job.bits} is unknown; use {', '.join(map(str, BITS))}")
    if shape.context and job.length > shape.context:
        raise UsageError(f"--length {job.length} is beyond the {shape.context} tokens that the model can read")
    for name, value in (("length", job.length), ("batch-size", job.batch_size), ("rank", job.rank)):
        if value < 1:
            raise UsageError(f"--{name} {value} is not at least 1")
    if not 0 <= job.dropout < 1:
        raise UsageError(f"--dropout {job.dropout} is not in [0, 1)")
    adapted = (linear for layer in shape.layers for linear in layer.linears if plays(job.role, linear.path))
    sides = [min(linear.inputs, linear.outputs) for linear in adapted]
    if not sides:
        raise UsageError(f"{shape.name} has no linear projection for --targets {job.role}")
    if job.rank > min(sides):
        raise UsageError(f"--rank {job.rank} does not fit: the smallest adapted matrix has a side of {min(sides)}")
