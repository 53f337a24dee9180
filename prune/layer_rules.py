"""How config classes lay out their layers where config.json leaves it to them. Pure functions of the JSON.

A rule takes the section of config.json that describes the decoder, and the number of layers L, and gives one entry
per layer, exactly as transformers' config class (or its modelling code) would; `tests/test_layer_rules.py` compares
the two for every rule. None: the JSON says it in another field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Section = Mapping[str, Any]
Rule = Callable[[Section, int], "list[Any] | None"]

FULL, SLIDING, LINEAR, INDEXED = "full_attention", "sliding_attention", "linear_attention", "indexed_attention"
CHUNKED, HYBRID, HYBRID_SLIDING, CONV = "chunked_attention", "hybrid", "hybrid_sliding", "conv"
DENSE, SPARSE = "dense", "sparse"


def same(kind: Any) -> Rule:
    """All layers are of one kind."""
    return lambda config, layers: [kind] * layers


def last_of(period: int, key: str | None = None, *, one: str = FULL, rest: str = SLIDING) -> Rule:
    """The last of every `period` layers is `one`, the others `rest`; the field `key` may give another period."""

    def rule(config: Section, layers: int) -> list[str]:
        step = config.get(key, period) if key else period
        return [rest if (layer + 1) % step else one for layer in range(layers)]

    return rule


def first_of(period: int, key: str | None = None, *, one: str = FULL, rest: str = SLIDING) -> Rule:
    """The first of every `period` layers is `one`, the others `rest`."""

    def rule(config: Section, layers: int) -> list[str]:
        step = config.get(key, period) if key else period
        return [rest if layer % step else one for layer in range(layers)]

    return rule


def picked(test: Callable[[int], bool], one: str, rest: str) -> Rule:
    """Layers that pass a test of their number are `one`."""
    return lambda config, layers: [one if test(layer) else rest for layer in range(layers)]


def dense_below(default: int, key: str | None = "first_k_dense_replace", step: str | None = "moe_layer_freq") -> Rule:
    """Dense layers first, then sparse ones (every `step`-th, where that field is given)."""

    def rule(config: Section, layers: int) -> list[str]:
        first = config.get(key, default) if key else default
        every = config.get(step, 1) if step else 1
        if isinstance(every, list):
            return [SPARSE if layer >= first and every[layer] else DENSE for layer in range(layers)]
        return [SPARSE if layer >= first and layer % every == 0 else DENSE for layer in range(layers)]

    return rule


def late_windows(config: Section, layers: int) -> list[str]:
    """Qwen2 and Qwen3: layers from `max_window_layers` on slide, if windows are switched on at all."""
    windows = config.get("use_sliding_window") and config.get("sliding_window", 4096) is not None
    first = config.get("max_window_layers", 28)
    return [SLIDING if windows and layer >= first else FULL for layer in range(layers)]


def dots1_windows(config: Section, layers: int) -> list[str]:
    windows, first = config.get("sliding_window", 4096) is not None, config.get("max_window_layers", 62)
    return [SLIDING if windows and layer >= first else FULL for layer in range(layers)]


def early_windows(config: Section, layers: int) -> list[str]:
    """Qwen2-MoE: every other layer below `max_window_layers` slides."""
    windows, first = config.get("use_sliding_window"), config.get("max_window_layers", 28)
    return [SLIDING if windows and layer % 2 == 0 and layer < first else FULL for layer in range(layers)]


def exaone_windows(config: Section, layers: int) -> list[str]:
    if config.get("sliding_window", 4096) is None:
        return [FULL] * layers
    return last_of(4, "sliding_window_pattern")(config, layers) or []


def any_windows(config: Section, layers: int) -> list[str]:
    """Ministral: all layers slide, or none."""
    return [FULL if config.get("sliding_window", 4096) is None else SLIDING] * layers


def cohere2_moe_types(config: Section, layers: int) -> list[str]:
    first = config.get("first_k_dense_replace", 0)
    prefix = last_of(1, "prefix_dense_sliding_window_pattern")(config, first) or []
    return [*prefix, *(last_of(4, "sliding_window_pattern")(config, layers - first) or [])]


def no_rope(config: Section, layers: int) -> list[int]:
    """Llama 4 and SmolLM3: 0 where a layer has no rotary embedding."""
    step = config.get("no_rope_layer_interval", 4)
    return [int((layer + 1) % step != 0) for layer in range(layers)]


def llama4_types(config: Section, layers: int) -> list[str]:
    return [CHUNKED if rope else FULL for rope in config.get("no_rope_layers") or no_rope(config, layers)]


def llama4_experts(config: Section, layers: int) -> list[int]:
    """The numbers of the layers with experts."""
    step = config.get("interleave_moe_layer_step", 1)
    return list(range(step - 1, layers, step))


def smollm3_types(config: Section, layers: int) -> list[str]:
    rope = config.get("no_rope_layers") or no_rope(config, layers)
    windows = config.get("use_sliding_window") and config.get("sliding_window") is not None
    return [SLIDING if windows and not has else FULL for has in rope]


def lfm2_types(config: Section, layers: int) -> list[str]:
    full = config.get("full_attn_idxs")
    return [FULL if full is None or layer in full else CONV for layer in range(layers)]


def lfm3_types(config: Section, layers: int) -> list[str]:
    kinds = {2: FULL, 0: SLIDING}
    return [kinds.get(layer % 4, CONV) if layer else CONV for layer in range(layers)]


def sixth_and_last(config: Section, layers: int) -> list[str]:
    """Beam and Gemma 4: every sixth layer and the last attend in full."""
    return [FULL if layer % 6 == 5 or layer == layers - 1 else SLIDING for layer in range(layers)]


def flint_types(config: Section, layers: int) -> list[str]:
    full = (0, 1, layers - 1)
    return [FULL if layer in full or layer % 4 == 1 else SLIDING for layer in range(layers)]


def kimi_types(config: Section, layers: int) -> list[str] | None:
    named = config.get("linear_attn_config") or {}
    if "full_attn_layers" in named and "kda_layers" in named:
        return None
    return [FULL if layer and layer % 4 == 0 else LINEAR for layer in range(layers)]


def inkling_types(config: Section, layers: int) -> list[str]:
    local = config.get("local_layer_ids")
    sliding = (lambda layer: (layer + 1) % 6) if local is None else (lambda layer: layer in local)
    return [HYBRID_SLIDING if sliding(layer) else HYBRID for layer in range(layers)]


def deepseek_v4_types(config: Section, layers: int) -> list[str] | None:
    if config.get("compress_ratios") is not None:
        return None
    heavy, light = "heavily_compressed_attention", "compressed_sparse_attention"
    return [light if layer >= 2 and layer % 2 else heavy for layer in range(layers)]


def deepseek_v4_experts(config: Section, layers: int) -> list[str]:
    hashed = config.get("num_hash_layers", 3)
    return ["hash_moe" if layer < hashed else "moe" for layer in range(layers)]


def dsa_indexers(config: Section, layers: int) -> list[str]:
    """GLM with sparse attention: which layers pick their tokens anew ("full") or take over the last pick ("shared")."""
    pattern = config.get("index_topk_pattern")
    if pattern is not None:
        return [{"F": "full", "S": "shared"}.get(letter, letter) for letter in pattern]
    every, skip = max(config.get("index_topk_freq", 1), 1), config.get("index_skip_topk_offset", 2)
    return ["shared" if max(layer - skip + 1, 0) % every else "full" for layer in range(layers)]


def dots3_types(config: Section, layers: int) -> list[str]:
    dsa = config.get("use_dsa", None if "per_layer_config" in config else True)
    full = FULL if dsa is False else INDEXED
    windows = config.get("use_sliding_window", True)
    return [full if not windows or layer < 2 or layer % 4 == 1 else SLIDING for layer in range(layers)]


def zamba_types(config: Section, layers: int) -> list[str]:
    period, offset = config.get("attn_layer_period", 6), config.get("attn_layer_offset", 4)
    late = [HYBRID if layer % period == offset else LINEAR for layer in range(layers - 3)]
    return [LINEAR, LINEAR, HYBRID, *late]


def zamba2_types(config: Section, layers: int) -> list[str]:
    return [LINEAR, *([LINEAR] * 5 + [HYBRID]) * 7, *[LINEAR] * 4, HYBRID, *[LINEAR] * 3, HYBRID, LINEAR, LINEAR]


def nemotron_h_types(config: Section, layers: int) -> list[str] | None:
    return None if "hybrid_override_pattern" in config else [LINEAR, "moe", FULL, "mlp"]


def granite_hybrid_types(config: Section, layers: int) -> list[str] | None:
    return None if config.get("layers_block_type") is not None else [LINEAR] * layers


def sparse_steps(config: Section, layers: int) -> list[bool]:
    """Qwen-MoE: whether a layer has experts."""
    step, dense = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers") or []
    experts = config.get("num_experts", config.get("num_local_experts", 1)) > 0
    return [experts and layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def flint_steps(config: Section, layers: int) -> list[bool]:
    dense = config.get("mlp_only_layers")
    return sparse_steps({**config, "mlp_only_layers": [0, 1] if dense is None else dense}, layers)


def ernie_experts(config: Section, layers: int) -> list[bool]:
    """Ernie 4.5 MoE: whether a layer has experts."""
    start, end = config.get("moe_layer_start_index", 1), config.get("moe_layer_end_index", -1)
    end = layers - 1 if end == -1 else end
    step = config.get("moe_layer_interval", 1)
    return [start <= layer <= end and (layer + 1) % step == 0 for layer in range(layers)]


def jamba_attention(config: Section, layers: int) -> list[bool]:
    period, offset = config.get("attn_layer_period", 8), config.get("attn_layer_offset", 4)
    return [layer % period == offset for layer in range(layers)]


def jamba_experts(config: Section, layers: int) -> list[bool]:
    period, offset = config.get("expert_layer_period", 2), config.get("expert_layer_offset", 1)
    return [layer % period == offset for layer in range(layers)]


def blocks_of(key: str, default: int) -> Rule:
    """Whether a layer opens a block of `key` layers."""
    return lambda config, layers: [layer % config.get(key, default) == 0 for layer in range(layers)]


def own_number(config: Section, layers: int) -> list[int]:
    """Every layer differs by its number."""
    return list(range(layers))


def own_number_if(key: str) -> Rule:
    return lambda config, layers: list(range(layers)) if config.get(key) else [0] * layers


def own_number_of(key: str, default: int) -> Rule:
    """Every layer differs by its number and the depth, unless the field `key` is 0."""

    def rule(config: Section, layers: int) -> list[Any]:
        return [(layer, layers) if config.get(key, default) else 0 for layer in range(layers)]

    return rule


def rescaled_by(key: str, default: int) -> Rule:
    """RWKV: how often the residual stream was halved before a layer."""

    def rule(config: Section, layers: int) -> list[int]:
        every = config.get(key, default)
        return [layer // every if every > 0 else 0 for layer in range(layers)]

    return rule


def last_type(config: Section, layers: int) -> list[bool]:
    """Gemma 4: the config class makes the last layer attend in full, whatever the list says."""
    types = config["layer_types"]
    return [layer == layers - 1 and types[layer] != FULL for layer in range(layers)]


def first_alone(config: Section, layers: int) -> list[bool]:
    """The first layer is built unlike the others."""
    return [layer == 0 for layer in range(layers)]


def last_alone(config: Section, layers: int) -> list[bool]:
    """The last layer is built unlike the others."""
    return [layer == layers - 1 for layer in range(layers)]


def shared_keys(config: Section, layers: int) -> list[int | None]:
    """Gemma 3n and 4: the layer whose keys and values a layer attends to, where they are not its own."""
    types = config["layer_types"]
    first = layers - config.get("num_kv_shared_layers", 0)
    donors = {kind: layer for layer, kind in enumerate(types[:first])}
    return [None if layer < first else donors.get(types[layer], -1) for layer in range(layers)]


def shared_picks(config: Section, layers: int) -> list[int | None]:
    """Sparse attention: the layer whose pick of tokens a layer takes over."""
    found: list[int | None] = []
    donor = -1
    for layer, kind in enumerate(config["indexer_types"]):
        donor = layer if kind == "full" else donor
        found.append(None if kind == "full" else donor)
    return found


def zamba_owner(config: Section, layers: int) -> list[int | None]:
    """Zamba: the first hybrid layer owns the attention block that all of them share."""
    hybrid = [layer for layer, kind in enumerate(config["layers_block_type"]) if kind == HYBRID]
    return [hybrid[0] if layer in hybrid[1:] else None for layer in range(layers)]


def zamba2_ordinal(config: Section, layers: int) -> list[tuple[int, int] | None]:
    """Zamba2: hybrid layers share blocks in turn, and a block keeps one adapter for each hybrid layer of the model."""
    hybrid = [layer for layer, kind in enumerate(config["layers_block_type"]) if kind == HYBRID]
    return [(hybrid.index(layer), len(hybrid)) if layer in hybrid else None for layer in range(layers)]


def ple_ordinal(config: Section, layers: int) -> list[int | None]:
    """Qwen4: a layer with n-gram embeddings hashes with its rank among those layers."""
    ranked = sorted(config.get("ple_layer_ids") or [])
    return [ranked.index(layer + 1) if layer + 1 in ranked else None for layer in range(layers)]
