"""What a model computes from its layers' numbers, where no config field spells it. Pure functions of the JSON.

A rule takes the section of config.json that describes the decoder, and the number of layers L, and gives one entry
per layer, as transformers' modelling code would. Lists of layers are no rules: where the JSON leaves them out, the
config class is asked (`prune/families/config_class.py`), as it is for every field that a rule reads (`Family.reads`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Section = Mapping[str, Any]
Rule = Callable[[Section, int], "list[Any]"]


def sparse_steps(config: Section, layers: int) -> list[bool]:
    """Qwen-MoE: whether a layer has experts."""
    step, dense = config["decoder_sparse_step"], config.get("mlp_only_layers") or []
    experts = config["num_experts"] > 0
    return [experts and layer not in dense and (layer + 1) % step == 0 for layer in range(layers)]


def ernie_experts(config: Section, layers: int) -> list[bool]:
    """Ernie 4.5 MoE: whether a layer has experts."""
    start, end, step = (config[f"moe_layer_{key}"] for key in ("start_index", "end_index", "interval"))
    end = layers - 1 if end == -1 else end
    return [start <= layer <= end and (layer + 1) % step == 0 for layer in range(layers)]


def jamba_attention(config: Section, layers: int) -> list[bool]:
    """Whether a layer attends."""
    period, offset = config["attn_layer_period"], config["attn_layer_offset"]
    return [layer % period == offset for layer in range(layers)]


def jamba_experts(config: Section, layers: int) -> list[bool]:
    """Whether a layer has experts."""
    period, offset = config["expert_layer_period"], config["expert_layer_offset"]
    return [layer % period == offset for layer in range(layers)]


def blocks_of(key: str) -> Rule:
    """Whether a layer opens a block of `key` layers."""
    return lambda config, layers: [layer % config[key] == 0 for layer in range(layers)]


def own_number(config: Section, layers: int) -> list[int]:
    """Every layer differs by its number."""
    return list(range(layers))


def own_number_if(key: str) -> Rule:
    """Every layer differs by its number, if the field `key` says so."""
    return lambda config, layers: list(range(layers)) if config[key] else [0] * layers


def own_number_of(key: str) -> Rule:
    """Every layer differs by its number and the depth, unless the field `key` is 0."""
    return lambda config, layers: [(layer, layers) if config[key] else 0 for layer in range(layers)]


def rescaled_by(key: str) -> Rule:
    """RWKV: how often the residual stream was halved before a layer."""
    return lambda config, layers: [layer // config[key] if config[key] > 0 else 0 for layer in range(layers)]


def last_type(config: Section, layers: int) -> list[bool]:
    """Gemma 4: the config class makes the last layer attend in full, whatever the list says."""
    types = config["layer_types"]
    return [layer == layers - 1 and types[layer] != "full_attention" for layer in range(layers)]


def first_alone(config: Section, layers: int) -> list[bool]:
    """The first layer is built unlike the others."""
    return [layer == 0 for layer in range(layers)]


def last_alone(config: Section, layers: int) -> list[bool]:
    """The last layer is built unlike the others."""
    return [layer == layers - 1 for layer in range(layers)]


def shared_keys(config: Section, layers: int) -> list[int | None]:
    """Gemma 3n and 4: the layer whose keys and values a layer attends to, where they are not its own."""
    types = config["layer_types"]
    first = layers - config["num_kv_shared_layers"]
    donors = {kind: layer for layer, kind in enumerate(types[:first])}
    return [None if layer < first else donors.get(types[layer], -1) for layer in range(layers)]


def shared_picks(config: Section, layers: int) -> list[int | None]:
    """Sparse attention: the layer whose pick of tokens a layer takes over."""
    picks: list[int | None] = []
    donor = -1
    for layer, kind in enumerate(config["indexer_types"]):
        donor = layer if kind == "full" else donor
        picks.append(None if kind == "full" else donor)
    return picks


def zamba_owner(config: Section, layers: int) -> list[int | None]:
    """Zamba: the first hybrid layer owns the attention block that all of them share."""
    hybrid = [layer for layer, kind in enumerate(config["layers_block_type"]) if kind == "hybrid"]
    return [hybrid[0] if layer in hybrid[1:] else None for layer in range(layers)]


def zamba2_ordinal(config: Section, layers: int) -> list[tuple[int, int] | None]:
    """Zamba2: hybrid layers share blocks in turn, and a block keeps one adapter for each hybrid layer of the model."""
    hybrid = [layer for layer, kind in enumerate(config["layers_block_type"]) if kind == "hybrid"]
    return [(hybrid.index(layer), len(hybrid)) if layer in hybrid else None for layer in range(layers)]


def ple_ordinal(config: Section, layers: int) -> list[int | None]:
    """Qwen4: a layer with n-gram embeddings hashes with its rank among those layers."""
    ranked = sorted(config.get("ple_layer_ids") or [])
    return [ranked.index(layer + 1) if layer + 1 in ranked else None for layer in range(layers)]
