"""Bytes that a model takes: of its weights in so many bits, of what autograd keeps, of a forward pass. And its FLOPs.

Pure arithmetic. A forward pass here is one without a graph: what a layer took is given back when it is done.
"""

from __future__ import annotations

from collections.abc import Iterable

from prune.models.memory.shapes import LayerShape, Linear, ModelShape
from prune.models.nf4 import BLOCK, DOUBLE

GIB = 1 << 30
_QUANTISED_EXTRAS = 1024 + 64 + 4  # bytes a tensor: two code books and an offset in fp32


def weight_bytes(layers: Iterable[LayerShape], outside: int, bits: int) -> int:
    """Bytes of layers whose projections stand in 4, 8 or 16 bits, and of `outside` values beside them.

    Whatever is no projection stands in bf16. Scales and code books come on top, see `scale_bytes`.
    """
    layers = list(layers)
    linear = sum(linear.values for layer in layers for linear in layer.linears)
    rest = outside + sum(layer.experts + layer.other for layer in layers)
    return {4: linear // 2, 8: linear, 16: 2 * linear}[bits] + 2 * rest


def scale_bytes(linear: Linear, bits: int) -> int:
    """Bytes of a quantised projection's scales and code books; 0 for 16 bits."""
    if bits == 16:
        return 0
    if bits == 8:
        return 4 * linear.outputs
    blocks = -(-linear.values // BLOCK)
    return blocks + 4 * -(-blocks // DOUBLE) + _QUANTISED_EXTRAS


def state_bytes(shape: ModelShape, tokens: int) -> int:
    """Bytes of one hidden state of so many tokens, in bf16."""
    return 2 * shape.hidden * tokens


def saved_bytes(shape: ModelShape, layer: LayerShape, bits: int, length: int) -> int:
    """Bytes that autograd keeps of one token's way through a frozen layer, until the backward pass.

    Args:
        bits: of the projections.
        length: tokens of the row.
    """
    width, attended = feed_forward_width(layer), shape.heads * shape.head_width
    saved = layer.norms + 8 * attended + 4 * shape.heads  # norms; queries, keys, values (one per head) and result
    saved += 4 * shape.head_width + 2 * length  # rotation; which tokens are seen, as bf16
    saved += shape.scores * shape.heads * length
    if shape.gated:
        saved += 6 * width  # both factors and the activation's input, in bf16
    else:
        saved += (8 if shape.written_out else 2) * width
    if bits == 8:
        saved += 2 * (2 * shape.hidden + attended + width)  # int8 products keep their inputs
    if layer.active_experts:
        saved += 14 * layer.active_experts // max(1, shape.hidden)
    return saved


def passing_bytes(shape: ModelShape, layer: LayerShape, bits: int, tokens: int) -> int:
    """Bytes that come and go within one layer's backward pass: gradients, and one weight as bf16."""
    width = max(feed_forward_width(layer), shape.hidden)
    largest = max((linear.values for linear in layer.linears), default=0)
    return 12 * width * tokens + (2 * largest if bits < 16 else 0)


def resident_bytes(shape: ModelShape, layers: Iterable[LayerShape], bits: int = 16) -> int:
    """Bytes of a whole model of these layers as it stands loaded, scales included."""
    layers = list(layers)
    scales = sum(scale_bytes(linear, bits) for layer in layers for linear in layer.linears)
    return weight_bytes(layers, shape.outside, bits) + scales


def streamed_bytes(shape: ModelShape) -> int:
    """Bytes of the weights that are there at once where a model runs layer by layer from its files, in bf16.

    Two layers take turns: one computes, and the next is read. Before and after them the embedding or the head stands.
    """
    largest = max((layer.values for layer in shape.layers), default=0)
    return max(2 * 2 * largest, 2 * shape.vocabulary * shape.hidden)


def forward_bytes(shape: ModelShape, layers: Iterable[LayerShape], tokens: int) -> int:
    """Bytes that come and go within one layer's forward pass over a batch of so many tokens, its states included.

    The state, and its normalised copy on the way in fp32; then queries, keys, values and the result, or three states
    of the feed-forward part. All but the copy are in bf16.
    """
    inside = shape.heads + 2 * shape.key_value_heads
    width = max((feed_forward_width(layer) for layer in layers), default=0)
    within = max(6 * width, 2 * (inside + shape.heads) * shape.head_width)
    return (12 * shape.hidden + within) * tokens


def forward_flops(shape: ModelShape, layers: Iterable[LayerShape], length: int) -> float:
    """Of one token's way through these layers in a row of so many tokens; scores that are masked are computed too."""
    layers = list(layers)
    active = sum(sum(linear.values for linear in layer.linears) + layer.active_experts for layer in layers)
    return 2.0 * active + score_flops(shape, length) * len(layers)


def score_flops(shape: ModelShape, length: int) -> float:
    """Of one token's attention scores in one layer, and of what they weigh."""
    return 4.0 * length * shape.heads * shape.head_width


def head_flops(shape: ModelShape) -> float:
    """Of one token's logits."""
    return 2.0 * shape.vocabulary * shape.hidden


def feed_forward_width(layer: LayerShape) -> int:
    """Width of the feed-forward part inside."""
    return max((linear.inputs for linear in layer.linears if linear.feed_forward), default=0)
