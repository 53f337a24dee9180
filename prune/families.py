"""The table of families: where each keeps its layers, and which config fields speak of layers.

A family is a `model_type` of transformers. To add one, add a row; `prune/configs.py` applies it and
`tests/test_surgery_families.py` proves it. A field is one of
- a *list*: one entry per layer. The kept layers' entries stay. Where the JSON leaves it out although the config
  class would fill it in from a rule, the rule is applied to the source's layers first, because applied to fewer
  layers it would give the kept ones other types;
- a *count* k: layers below k are of one kind. It becomes the number of kept layers below k;
- a *period*: every k-th layer is of one kind. A list says the same and more, so the period goes;
- *by index*: a switch under which a layer computes with its own number. Then no kept layer may move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Rule = Callable[[Mapping[str, Any], int], list[Any]]

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Args:
        prefixes: what may precede a layer's number in tensor names.
        count: config keys for the number of layers, the class's own first.
        lists: per-layer list -> rule by which the config class fills it where it is absent (None: it does not).
        counts, periods, by_index: see the module docstring.
        section: the key of the nested config that describes the decoder; None where the config is flat.
    """

    prefixes: tuple[str, ...]
    count: tuple[str, ...] = ("num_hidden_layers",)
    lists: Mapping[str, Rule | None] = field(default_factory=dict)
    counts: tuple[str, ...] = ()
    periods: tuple[str, ...] = ()
    by_index: tuple[str, ...] = ()
    section: str | None = None


def late_windows(config: Mapping[str, Any], layers: int) -> list[str]:
    """Qwen2 and Qwen3: layers from `max_window_layers` on slide, if windows are switched on at all."""
    windows = config.get("use_sliding_window") and config.get("sliding_window", 4096) is not None
    first = config.get("max_window_layers", 28)
    return [SLIDING if windows and layer >= first else FULL for layer in range(layers)]


def every(period: int, key: str | None = None) -> Rule:
    """Every `period`-th layer attends in full and the others slide; `key` may give another period."""

    def rule(config: Mapping[str, Any], layers: int) -> list[str]:
        step = config.get(key, period) if key else period
        return [SLIDING if (layer + 1) % step else FULL for layer in range(layers)]

    return rule


_LLAMA = ("model.layers.", "layers.")
_GPT2 = ("transformer.h.", "h.")
_GPT2_COUNT = ("n_layer", "num_hidden_layers")

PLAIN = Family(_LLAMA)
_WINDOWED = Family(_LLAMA, lists={"layer_types": late_windows}, counts=("max_window_layers",))
_GEMMA3_PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")

FAMILIES: dict[str, Family] = {
    "bloom": Family(_GPT2, count=_GPT2_COUNT),
    "cohere": PLAIN,
    "cohere2": Family(
        _LLAMA, lists={"layer_types": every(4, "sliding_window_pattern")}, periods=("sliding_window_pattern",)
    ),
    "falcon": Family(_GPT2),
    "gemma": PLAIN,
    "gemma2": Family(_LLAMA, lists={"layer_types": every(2)}),
    "gemma3": Family(
        ("language_model.model.layers.", "model.language_model.layers."),
        lists={"layer_types": every(6, "sliding_window_pattern")},
        periods=_GEMMA3_PATTERN,
        section="text_config",
    ),
    "gemma3_text": Family(_LLAMA, lists={"layer_types": every(6, "sliding_window_pattern")}, periods=_GEMMA3_PATTERN),
    "gpt2": Family(_GPT2, count=_GPT2_COUNT, by_index=("scale_attn_by_inverse_layer_idx",)),
    "gpt_neox": Family(("gpt_neox.layers.", "layers.")),
    "gptj": Family(_GPT2, count=_GPT2_COUNT),
    "granite": PLAIN,
    "llama": PLAIN,
    "mistral": PLAIN,
    "mixtral": PLAIN,
    "olmo": PLAIN,
    "olmo2": PLAIN,
    "olmo3": Family(_LLAMA, lists={"layer_types": every(4)}),
    "opt": Family(("model.decoder.layers.", "decoder.layers.")),
    "phi": PLAIN,
    "phi3": PLAIN,
    "qwen2": _WINDOWED,
    "qwen3": _WINDOWED,
    "stablelm": PLAIN,
    "starcoder2": PLAIN,
}

# Fields that are lists of one entry per layer wherever they occur: transformers' base config class checks their
# lengths against the number of layers for every family.
COMMON_LISTS: dict[str, Rule | None] = {"layer_types": None, "mlp_layer_types": None}

# Fields that never speak of layers, although a list in them may by chance be as long as the model is deep.
NOT_OF_LAYERS = frozenset(
    {
        "architectures",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "eos_token_id",
        "id2label",
        "label2id",
        "pad_token_id",
        "pruned_heads",
        "quantization_config",
        "rope_parameters",
        "rope_scaling",
        "suppress_tokens",
        "task_specific_params",
    }
)
