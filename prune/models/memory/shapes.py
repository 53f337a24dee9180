"""How large a model's parts are, read from config.json and the headers of its shards: no tensor is loaded."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune.checkpoint.headers import Checkpoint, Tensor
from prune.checkpoint.tensors import FLOATS
from prune.common.errors import CheckpointError
from prune.models.loading import longest_stated

HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")  # what an untied head is stored as
_EXPERT = ".experts."


_ATTENTION = re.compile(r"attn|attention|mixer|mamba")
_FEED_FORWARD = re.compile(r"(mlp|ffn?|feed_?forward|block_sparse_moe|moe|experts?|shared_experts?)(\.|$)")
# q_norm (Qwen 3, Gemma 3, OLMo 2), k_layernorm (Phi, Persimmon).
_HEAD_NORM = re.compile(r"(?:^|\.)(q|k)\w*norm\.weight$")
_BARE = {"fc1", "fc2", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}  # directly under the layer, as in OPT


@dataclass(frozen=True)
class Linear:
    """A projection of a layer: `path` in the layer, widths, and whether it is of the feed-forward part."""

    path: str
    inputs: int
    outputs: int
    feed_forward: bool

    @property
    def values(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class LayerShape:
    """One layer: its projections, the values of experts (which stay in bf16), and of norms and biases.

    Attributes:
        norms: bytes that its norms keep of one token for the backward pass: of a norm without bias (RMS) the state in
            fp32, else in bf16. A norm of queries or keys that is as wide as a head runs once for each head.
        active_experts: the values of the experts that one token runs through.
    """

    linears: tuple[Linear, ...]
    experts: int
    active_experts: int
    other: int
    norms: int

    @property
    def values(self) -> int:
        return sum(linear.values for linear in self.linears) + self.experts + self.other


@dataclass(frozen=True)
class ModelShape:
    """A decoder: its layers in order, and what stands outside them.

    Attributes:
        outside: values of embeddings, final norm and an untied head.
        vocabulary, hidden: V and d.
        heads, key_value_heads, head_width: of the attention.
        gated: the feed-forward part multiplies two projections (Llama, Gemma, Qwen).
        written_out: the activation is a formula of several operations, each of which keeps its input (gelu_new).
        scores: bytes kept of one attention score; 0 where a fused kernel keeps none.
        context: positions that it was made for; None where the config sets no bound.
        stored_bytes: of all tensors in the files.
        largest: values of the largest tensor.
    """

    name: str
    layers: tuple[LayerShape, ...]
    outside: int
    vocabulary: int
    hidden: int
    heads: int
    key_value_heads: int
    head_width: int
    gated: bool
    written_out: bool
    scores: int
    context: int | None
    stored_bytes: int
    largest: int

    @property
    def values(self) -> int:
        return self.outside + sum(layer.values for layer in self.layers)


def shape_of(
    checkpoint: Checkpoint,
    layer_of: Callable[[str], int | None],
    *,
    name: str,
    layers: int,
    section: str,
    transposed: bool,
) -> ModelShape:
    """The shape of an open checkpoint.

    Args:
        layer_of: from a tensor's name to its layer, None outside the layers.
        name: the model's, for messages.
        layers: L.
        section: the part of config.json that describes the decoder; "" for the whole.
        transposed: projections are stored (in, out).
    """
    config = checkpoint.config
    settings = config.get(section, config)
    inside: list[list[Tensor]] = [[] for _ in range(layers)]
    outside: list[Tensor] = []
    for tensor in checkpoint.tensors():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{name}: {tensor.name} is of type {tensor.dtype}: healing needs a model whose weights "
                "are floating-point numbers, and quantises it by itself"
            )
        layer = layer_of(tensor.name)
        if layer is None:
            outside.append(tensor)
        elif layer < layers:
            inside[layer].append(tensor)
    table = max((t for t in outside if len(t.shape) == 2), key=lambda t: t.elements, default=None)
    if table is None:
        raise CheckpointError(f"{name}: no tensor outside the layers is an embedding")
    hidden = _number(settings, "hidden_size", "n_embd", "d_model") or min(table.shape)
    heads = _number(settings, "num_attention_heads", "n_head", "n_heads") or 1
    tied = config.get("tie_word_embeddings", settings.get("tie_word_embeddings", True))
    head = [t for t in outside if t.name.endswith(HEADS)]
    active = _number(settings, "num_experts_per_tok", "top_k_experts", "moe_topk") or 1
    experts = _number(settings, "num_local_experts", "num_experts", "n_routed_experts") or 1
    keys, width = _number(settings, "num_key_value_heads") or heads, _number(settings, "head_dim") or hidden // heads
    a_head = {"q": heads, "k": keys}
    shapes = tuple(_layer(tensors, min(1.0, active / experts), transposed, width, a_head) for tensors in inside)
    text = sum(t.elements for t in outside if not any(part in t.name for part in ("vision", "visual", "audio")))
    return ModelShape(
        name=name,
        layers=shapes,
        outside=text - (sum(t.elements for t in head) if tied and len(head) and _both(outside) else 0),
        vocabulary=max(table.shape),
        hidden=hidden,
        heads=heads,
        key_value_heads=keys,
        head_width=width,
        gated=any("gate" in linear.path and linear.feed_forward for linear in shapes[0].linears)
        or any(linear.path.endswith("w3") for linear in shapes[0].linears),
        written_out=settings.get("hidden_act", settings.get("activation_function", "silu")) == "gelu_new",
        scores=_scores(settings),
        context=longest_stated(settings),
        stored_bytes=checkpoint.size,
        largest=max(t.elements for t in checkpoint.tensors()),
    )


def _layer(
    tensors: Sequence[Tensor], share: float, transposed: bool, head_width: int, heads: Mapping[str, int]
) -> LayerShape:
    """`heads`: of queries (q) and of keys (k), each of which runs a norm as wide as itself once."""
    linears, experts, other, norms = [], 0, 0, 0
    for tensor in tensors:
        path = _path(tensor.name)
        if _EXPERT in f".{path}" or len(tensor.shape) == 3:
            experts += tensor.elements
        elif len(tensor.shape) == 2 and path.endswith(".weight"):
            outputs, inputs = reversed(tensor.shape) if transposed else tensor.shape
            path = path.removesuffix(".weight")
            linears.append(Linear(path, inputs, outputs, is_feed_forward(path)))
        else:
            other += math.prod(tensor.shape)
    names = {_path(tensor.name): tensor.shape for tensor in tensors}
    for path, shape in names.items():
        if len(shape) == 1 and path.endswith(".weight"):
            one = 2 * shape[0] + 8 if path.removesuffix("weight") + "bias" in names else 4 * shape[0] + 4
            of_a_head = _HEAD_NORM.search(path) if shape[0] == head_width else None
            norms += one * (heads[of_a_head[1]] if of_a_head else 1)
    return LayerShape(tuple(linears), experts, round(experts * share), other, norms)


def _path(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `mlp.up_proj.weight`."""
    parts = name.split(".")
    number = next(i for i, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[number + 1 :])


def _both(outside: Sequence[Tensor]) -> bool:
    """Whether a table as large as the head stands beside it: then a tied head is stored twice."""
    return any(count > 1 for count in Counter(t.shape for t in outside if len(t.shape) == 2).values())


def _scores(section: Mapping[str, Any]) -> int:
    """A soft cap, and on a CPU dropout of scores, keep attention from the fused kernels."""
    if section.get("attn_logit_softcapping"):
        return 8
    return 12 if any(section.get(name) for name in ("attn_pdrop", "attention_dropout")) else 0


def _number(section: Mapping[str, Any], *names: str) -> int | None:
    return next((value for name in names if type(value := section.get(name)) is int), None)


def is_feed_forward(path: str) -> bool:
    """Whether a module, named by its path in the layer, belongs to the feed-forward part."""
    return not _ATTENTION.search(path) and (bool(_FEED_FORWARD.match(path)) or path in _BARE)
