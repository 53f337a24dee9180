"""What becomes of each kind of config field when layers go. Pure: the section of config.json that describes the
decoder is changed in place, by the family's row of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prune.families.table import COMMON_LISTS, Family

# How configs call layers that look back over tokens, and those that carry a state.
_ATTEND = frozenset(
    {"full_attention", "sliding_attention", "chunked_attention", "indexed_attention", "attention", "hybrid"}
    | {"hybrid_sliding", "*"}
)
_RECUR = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "M"})


class InexpressibleError(ValueError):
    """No config says what the pruned model would be; the message says why."""


class LengthError(ValueError):
    """A list has not one entry per layer; `key` names it, and the message goes on from there."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Renumbering:
    """The layers `kept` of `layers` layers stay, 0-based and rising."""

    layers: int
    kept: tuple[int, ...]

    @property
    def new(self) -> dict[int, int]:
        """Kept layer -> its number in the pruned model."""
        return {layer: number for number, layer in enumerate(self.kept)}


def check_lengths(section: Mapping[str, Any], family: Family, layers: int) -> None:
    """Raise LengthError where a list that the section states has not one entry for each of `layers` layers."""
    for key in _list_keys(family):
        _entries(section, key, family, layers)
    for key in family.runs:
        kinds = _spelled_out(section.get(key) or [])
        if kinds and len(kinds) != layers:
            raise LengthError(key, f"spells {len(kinds)} entries, but the model has {layers} layers")


def silent_keys(section: Mapping[str, Any], family: Family) -> list[str]:
    """The keys that speak of layers, or that rules read, on which the section is silent."""
    silent = [key for key in family.asked if _get(section, key) is None]
    return silent + [key for key in family.lists if key not in family.old and _get(section, key) == []]


def stride_layers(step: int, layers: int) -> list[int]:
    """The last of each `step` of `layers` layers, 0-based; none for a step below 1."""
    return list(range(step - 1, layers, step)) if step > 0 else []


def fill(section: dict[str, Any], values: Mapping[str, Any]) -> None:
    """State values in the section; None leaves it silent."""
    for key, value in values.items():
        if value is not None:
            _set(section, key, value)


def spell(section: dict[str, Any], family: Family, renumbering: Renumbering, read: Mapping[str, Any]) -> None:
    """Change the section in place so that it describes the kept layers, each as it was.

    Args:
        section: states all that speaks of layers.
        read: fields that only rules read, as the class fills them where the section is silent.

    Raises:
        InexpressibleError: it cannot.
        LengthError: a list has not one entry per layer.
        TypeError, ValueError, KeyError, IndexError, ZeroDivisionError: the fields hold nonsense.
    """

    def seen() -> dict[str, Any]:
        return {**read, **{key: value for key, value in section.items() if value is not None}}

    entries = {key: _entries(section, key, family, renumbering.layers) for key in _list_keys(family)}
    if family.steps and _number(seen()["decoder_sparse_step"]) > 1:
        experts = family.steps(seen(), renumbering.layers)
        section["mlp_only_layers"] = [layer for layer in range(renumbering.layers) if not experts[layer]]
        section["decoder_sparse_step"] = 1
    facts = {words: rule(seen(), renumbering.layers) for words, rule in family.fixed.items()}
    links = {words: rule(seen(), renumbering.layers) for words, rule in family.links.items()}

    for key, value in entries.items():
        if value is not None:
            _set(section, key, _kept(value, renumbering))
            _check_kinds(key, value, renumbering)
    _shift_numbers(section, family, renumbering)
    for key in family.periods:
        section.pop(key, None)
    for key, numbers in family.strides.items():
        if _get(section, numbers) != stride_layers(_number(section.get(key)), len(renumbering.kept)):
            section.pop(key, None)
    for key in [key for key in family.count if key in section] or family.count[:1]:
        section[key] = len(renumbering.kept)

    for words, rule in family.fixed.items():
        if rule(seen(), len(renumbering.kept)) != [facts[words][layer] for layer in renumbering.kept]:
            raise InexpressibleError(words)
    for words, rule in family.links.items():
        _check_links(words, links[words], rule(seen(), len(renumbering.kept)), renumbering)


def _list_keys(family: Family) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*COMMON_LISTS, *family.lists)))


def _entries(section: Mapping[str, Any], key: str, family: Family, layers: int) -> Any:
    """A list of one entry per layer; None where there is none.

    It may go on for the extra layers that are stored behind the decoder's.
    """
    value = _get(section, key)
    if value is None or value == [] or isinstance(value, int | float):  # one number for all layers
        return None
    if not isinstance(value, list | str):
        raise LengthError(key, f"is not a list of {layers} entries, one per layer")
    extra = max((_number(section.get(other)) for other in family.extra), default=0)
    if not layers <= len(value) <= layers + extra:
        raise LengthError(key, f"has {len(value)} entries, but the model has {layers} layers")
    return value


def _spelled_out(types: list[Any]) -> list[Any]:
    """From runs to one entry per layer."""
    return [kind for group, times in types for kind in group * times]


def _kept(value: Any, renumbering: Renumbering) -> Any:
    if isinstance(value, str):
        return "".join(value[layer] for layer in renumbering.kept) + value[renumbering.layers :]
    return [value[layer] for layer in renumbering.kept] + value[renumbering.layers :]


def _check_kinds(key: str, value: Any, renumbering: Renumbering) -> None:
    kinds, stay = set(value), {value[layer] for layer in renumbering.kept}
    if all(isinstance(kind, str) for kind in kinds) and kinds & _RECUR and kinds & _ATTEND and not stay & _ATTEND:
        raise InexpressibleError(f"{key}: no layer with attention would stay, by which transformers counts its cache")


def _shift_numbers(section: dict[str, Any], family: Family, renumbering: Renumbering) -> None:
    new = renumbering.new
    for key, base in family.indices.items():
        numbers = _get(section, key)
        if numbers:
            stay = [new[number - base] + base for number in numbers if number - base in new]
            if key == "attn_layer_indices" and not stay:
                raise InexpressibleError(
                    f"{key}: no layer with attention would stay, by which transformers counts its cache"
                )
            _set(section, key, stay)
    for key in family.numbered:
        table = section.get(key)
        if table:
            section[key] = {str(new[int(number)]): entry for number, entry in table.items() if int(number) in new}
    for key in family.cycles:
        cycle = section.get(key)
        if cycle:
            section[key] = [cycle[layer % len(cycle)] for layer in renumbering.kept]
            _check_kinds(key, [cycle[layer % len(cycle)] for layer in range(renumbering.layers)], renumbering)
    for key in family.counts:
        if type(section.get(key)) is int:
            section[key] = sum(layer < section[key] for layer in renumbering.kept)
    for key in family.ends:
        if type(section.get(key)) is int and section[key] >= 0:
            section[key] = max(sum(layer <= section[key] for layer in renumbering.kept) - 1, 0)
    for key in family.tails:
        if type(section.get(key)) is int:
            section[key] = sum(layer >= renumbering.layers - section[key] for layer in renumbering.kept)
    for key in family.root_depth:
        if section.get(key) is not None:
            section[key] = section[key] * math.sqrt(len(renumbering.kept) / renumbering.layers)
    for key in family.runs:
        kinds = _spelled_out(section.get(key) or [])
        if kinds:
            section[key] = [[[kinds[layer] for layer in renumbering.kept], 1]]


def _check_links(words: str, before: list[Any], after: list[Any], renumbering: Renumbering) -> None:
    new = renumbering.new
    for number, layer in enumerate(renumbering.kept):
        source = before[layer]
        if after[number] != (None if source is None else new.get(source, -1)) or after[number] == -1:
            raise InexpressibleError(f"{words} (layer {layer} reads from layer {source})")


def _get(section: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        if not isinstance(section, Mapping):
            return None
        section = section.get(part)  # type: ignore[assignment]
    return section


def _set(section: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        section = section[part]
    section[last] = value


def _number(value: Any) -> int:
    return value if type(value) is int else 0
