"""What llama.cpp takes for granted of a family's layers, where its GGUF does not say it of each layer.

The source is llama.cpp as llama-cpp-python 0.3.36 holds it: `src/models/*.cpp` (`load_swa_pattern`,
`n_no_rope_layer_step`, whatever asks for `n_layer`), and `conversion/*.py`, which writes the GGUF. A family is missing
here where the converter writes one entry per layer: `cohere2_moe`, `exaone_moe`, `gemma4`, `granite_swa`, `mellum`,
`olmo3`, `qwen3_next`, `qwen3_5` and others. So is one that llama.cpp does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prune.families.fields import stride_layers

_VLLM = "vLLM runs it as it is"


@dataclass(frozen=True)
class Kind:
    """A kind of layer: the list of config.json that says it, of one entry per layer, and the entry."""

    key: str
    entry: str | int
    words: str


_FULL = Kind("layer_types", "full_attention", "full attention")
_NO_ROPE = Kind("no_rope_layers", 0, "no RoPE")


@dataclass(frozen=True)
class Assumption:
    """Something that llama.cpp takes for granted.

    Attributes:
        broken: of the config's section for the decoder and its number of layers, why it does not hold; empty where it
            does, and where the section is silent.
        remedy: what to do about it.
    """

    broken: Callable[[Mapping[str, Any], int], str]
    remedy: str = _VLLM


def _every(period: int, kind: Kind, *, first: bool = False, among: str | None = None) -> Assumption:
    """Of each `period` layers the last, or the `first`, is of the kind, and no other is.

    Args:
        among: an entry of `layer_types`; llama.cpp goes by the period only if some layer has it.
    """
    place = 0 if first else period - 1

    def broken(section: Mapping[str, Any], layers: int) -> str:
        if (kind is _FULL and _without_windows(section)) or (among and among not in _list(section, "layer_types")):
            return ""
        entries = _list(section, kind.key)[:layers]
        wrong = [layer for layer, entry in enumerate(entries) if (entry == kind.entry) != (layer % period == place)]
        if not wrong:
            return ""
        places = f"in layers {place}, {place + period}, ... alone"
        return f"it goes by a layer's number, {kind.words} {places}, which is wrong of layer {wrong[0]} of the cut"

    return Assumption(broken, f"drop whole periods of {period} layers")


def _windows_at(depth: int) -> Assumption:
    """Layers have a sliding window in a model of this depth alone."""

    def broken(section: Mapping[str, Any], layers: int) -> str:
        if layers == depth or _without_windows(section) or "sliding_attention" not in _list(section, "layer_types"):
            return ""
        return f"it leaves out the sliding window unless a model has {depth} layers, and the cut has {layers}"

    return Assumption(broken)


def _scale_at(depth: int) -> Assumption:
    """Attention is scaled by hidden size over heads in a model of this depth, by the head's size in all others."""

    def broken(section: Mapping[str, Any], layers: int) -> str:
        asked, head = _number(section, "query_pre_attn_scalar"), _number(section, "head_dim")
        hidden, heads = _number(section, "hidden_size"), _number(section, "num_attention_heads")
        taken = hidden // heads if layers == depth and hidden and heads else head
        if not asked or not taken or math.isclose(asked, taken):
            return ""
        return (
            f"with {layers} layers it scales attention by {taken:g} where config.json says {asked:g} "
            "(query_pre_attn_scalar)"
        )

    return Assumption(broken)


def _experts_by_step(section: Mapping[str, Any], layers: int) -> str:
    """llama.cpp reads the step, 1 where there is none; a cut keeps the step only while `moe_layers` says the same."""
    step, experts = section.get("interleave_moe_layer_step") or 1, section.get("moe_layers")
    if not isinstance(experts, list) or sorted(experts) == stride_layers(step, layers):
        return ""
    taken = "all layers" if step == 1 else f"one layer in {step}"
    return f"it takes {taken} for layers with experts, as it does not read moe_layers"


_GEMMA3 = (_scale_at(62), _every(6, _FULL))
_LLAMA4 = (
    Assumption(_experts_by_step, "drop whole periods of the layers with and without experts"),
    _every(4, _FULL, among="chunked_attention"),
    _every(4, _NO_ROPE, among="chunked_attention"),
)
_ASSUMED: dict[str, tuple[Assumption, ...]] = {  # those that whole periods do not mend stand first
    "afmoe": (_every(4, _FULL),),
    "cohere2": (_every(4, _FULL),),
    "exaone4": (_windows_at(64),),
    "gemma2": (_scale_at(46), _every(2, _FULL)),
    "gemma3": _GEMMA3,
    "gemma3_text": _GEMMA3,
    "gpt_oss": (_every(2, _FULL),),
    "laguna": (_every(4, _FULL, first=True),),
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
    "smollm3": (_every(4, _NO_ROPE),),
}


def run_otherwise(before: Mapping[str, Any], after: Mapping[str, Any], section: str | None) -> str:
    """Why llama.cpp would run a cut model as another model, and what to do, in one line; empty where it would not.

    Args:
        before: config.json of the source.
        after: of the cut model, with its lists stated.
        section: the key of the nested config that describes the decoder; None where it is flat.
    """
    for assumption in _ASSUMED.get(after["model_type"], ()):
        if reason := _broken(assumption, after, section):
            return f"{reason}; {_VLLM if _broken(assumption, before, section) else assumption.remedy}"
    return ""


def _broken(assumption: Assumption, config: Mapping[str, Any], section: str | None) -> str:
    part = config[section] if section else config
    layers = part.get("num_hidden_layers")
    return assumption.broken(part, layers) if layers else ""


def _list(section: Mapping[str, Any], key: str) -> list[Any]:
    value = section.get(key)
    return value if isinstance(value, list) else []


def _number(section: Mapping[str, Any], key: str) -> float:
    value = section.get(key)
    return value if isinstance(value, int | float) else 0


def _without_windows(section: Mapping[str, Any]) -> bool:
    """A config that says so has no sliding windows, whatever its kinds of layers."""
    return "sliding_window" in section and not section["sliding_window"]
