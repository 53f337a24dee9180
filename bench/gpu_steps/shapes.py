"""Shapes: Llama-3-8B and -70B and a tiny one for a CPU, which are measured, and -405B, which is reckoned alone."""

from __future__ import annotations

from typing import Any

from bench.gpu_steps.measuring import Machine
from prune.models.memory.shapes import LayerShape, Linear, ModelShape

_LLAMA = {"vocab_size": 128256, "num_key_value_heads": 8}
SHAPES = {
    "8b": {
        **_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    },
    "70b": {
        **_LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    },
    "405b": {
        **_LLAMA, "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126,
        "num_attention_heads": 128,
    },
    "tiny": {
        "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
CUTS = {"8b": (12, 8), "70b": (24, 32), "tiny": (2, 2)}  # start and number of the layers that are dropped


def small(machine: Machine) -> str:
    return "tiny" if machine.tiny else "8b"


def large(machine: Machine) -> str:
    return "tiny" if machine.tiny else "70b"


def kept_layers(shape: str) -> tuple[int, ...]:
    start, n = CUTS[shape]
    return tuple(layer for layer in range(SHAPES[shape]["num_hidden_layers"]) if not start <= layer < start + n)


def config_of(shape: str, layers: int | None = None) -> Any:
    """The config of a shape, with another number of layers where one is given."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        **{**SHAPES[shape], "num_hidden_layers": layers or SHAPES[shape]["num_hidden_layers"]},
        max_position_embeddings=16384,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    return config


def model_shape(shape: str) -> ModelShape:
    return llama_shape(shape, SHAPES[shape])


def llama_shape(name: str, sizes: dict[str, int]) -> ModelShape:
    """A Llama of the sizes that its config has, as `heal budget` reads it from a checkpoint's headers."""
    d, f, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_attention_heads"]
    keys, vocabulary, count = d // heads * sizes["num_key_value_heads"], sizes["vocab_size"], sizes["num_hidden_layers"]
    attention = {"q_proj": (d, d), "k_proj": (d, keys), "v_proj": (d, keys), "o_proj": (d, d)}
    feed_forward = {"gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d)}
    linears = [Linear(f"self_attn.{name}", *size, False) for name, size in attention.items()]
    linears += [Linear(f"mlp.{name}", *size, True) for name, size in feed_forward.items()]
    layer = LayerShape(tuple(linears), 0, 0, 2 * d, 8 * d + 8)
    outside = 2 * vocabulary * d + d
    return ModelShape(
        name=name, layers=(layer,) * count, outside=outside, vocabulary=vocabulary, hidden=d, heads=heads,
        key_value_heads=sizes["num_key_value_heads"], head_width=d // heads, gated=True, written_out=False, scores=0,
        context=16384, stored_bytes=2 * (outside + count * layer.values), largest=vocabulary * d,
    )  # fmt: skip


def forward_flops(shape: str, length: int) -> float:
    """Of one token through all layers at that length of a row, without the head."""
    model = model_shape(shape)
    products = 2.0 * sum(linear.values for linear in model.layers[0].linears)
    scores = 4.0 * length * model.heads * model.head_width / 2
    return len(model.layers) * (products + scores)
