"""A config of fewer layers: the table of `prune/families/table.py` applied to config.json. Pure: dicts in, dicts out.

What is not named in the table stays as it is, and what looks as if it spoke of layers without being in the table is
refused. Where the JSON is silent on a field of the table, transformers' config class is asked.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prune.common.errors import CheckpointError
from prune.families.config_class import UnansweredError, ask_class
from prune.families.fields import InexpressibleError, LengthError, Renumbering, check_lengths, fill, silent_keys, spell
from prune.families.nearest import advice
from prune.families.table import COMMON_LISTS, FAMILIES, NOT_OF_LAYERS, Family


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The row of the table for a config.

    Raises:
        CheckpointError: no `model_type`, or a family that is not in the table.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{where}: config.json names no model_type, so it is not a transformers model")
    if kind not in FAMILIES:
        raise CheckpointError(
            f"{where}: prune does not know how {kind!r} models keep their layers; those that it knows are in "
            "docs/families.md"
        )
    return FAMILIES[kind]


def layer_count(config: Mapping[str, Any], family: Family, where: str) -> int | None:
    """The number of layers that a config states; None where it leaves that to its class.

    Raises:
        CheckpointError: it is no positive whole number.
    """
    section = _section(config, family, where)
    stated = [section[key] for key in family.count if section.get(key) is not None]
    for value in stated:
        if type(value) is not int or value < 1 or value != stated[0]:
            raise CheckpointError(f"{where}: config.json states {value!r} for its number of layers")
    return stated[0] if stated else None


def cut_config(
    config: Mapping[str, Any], family: Family, layers: int, kept: Sequence[int], where: str
) -> dict[str, Any]:
    """The config of the model that keeps `kept` of its `layers` layers (0-based, rising).

    Raises:
        CheckpointError: the cut cannot be spelled, and the message names the nearest block that can; or a field may
            speak of layers in a way we do not know; or it is left to a class that cannot be asked.
    """
    renumbering = Renumbering(layers, tuple(kept))
    whole, read = _whole(config, family, layers, where)
    try:
        return _cut(whole, family, renumbering, read, where)
    except InexpressibleError as reason:

        def works(other: Sequence[int]) -> bool:
            try:
                _cut(whole, family, Renumbering(layers, tuple(other)), read, where)
            except (InexpressibleError, CheckpointError):
                return False
            return True

        raise CheckpointError(f"{where}: {reason}; {advice(works, layers, kept)}") from None


def refuse_family(config: Mapping[str, Any], family: Family, where: str, names: Iterable[str] = ()) -> None:
    """Say no to families, and to files of theirs with these tensor names, that cannot be cut at all.

    Raises:
        CheckpointError: with the reason.
    """
    if family.refused:
        raise CheckpointError(f"{where}: {config.get('model_type')} models cannot be cut: {family.refused}")
    if config.get("is_encoder_decoder") is True:
        raise CheckpointError(f"{where}: an encoder-decoder is no decoder-only model; its layers cannot be cut here")
    names = list(names) if family.stored else []
    for ending in family.stored:
        if not any(name.endswith(ending) for name in names):
            raise CheckpointError(
                f"{where}: no tensor ends in {ending}, and without it a layer computes with its own number; "
                "save the model once with transformers, which writes it"
            )


def extra_layers(config: Mapping[str, Any], family: Family) -> int:
    """How many layers the file may hold behind the decoder's own, for multi-token prediction."""
    section = config.get(family.section) if family.section else config
    numbers = [section.get(key) for key in family.extra] if isinstance(section, dict) else []
    return max((number for number in numbers if type(number) is int), default=0)


def _whole(config: Mapping[str, Any], family: Family, layers: int, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config with all that speaks of layers stated, and what the class gives to fields that only rules read."""
    new = copy.deepcopy(dict(config))
    section = _section(new, family, where)
    path = f"{family.section}." if section is not new else ""
    with _sense(path, where):
        check_lengths(section, family, layers)
    silent = silent_keys(section, family)
    if not silent:
        return new, {}
    if not any(section.get(key) for key in family.count):
        section[family.count[0]] = layers
    left = f"{where}: config.json leaves {', '.join(path + key for key in silent)} to its class, "
    try:
        values = ask_class(new, family.section, silent)
        fill(section, {key: value for key, value in values.items() if key not in family.reads})
        check_lengths(section, family, layers)
    except UnansweredError as error:
        raise CheckpointError(f"{left}but {error}; give the values in config.json") from None
    except LengthError as error:
        raise CheckpointError(f"{left}where {error.key} {error}; give the values in config.json") from None
    return new, {key: value for key, value in values.items() if key in family.reads}


@contextmanager
def _sense(path: str, where: str) -> Iterator[None]:
    """Turn what a field of nonsense raises into one line."""
    try:
        yield
    except InexpressibleError:
        raise
    except LengthError as error:
        raise CheckpointError(f"{where}: config.json's {path}{error.key} {error}; give one entry per layer") from None
    except (TypeError, ZeroDivisionError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: config.json's fields that speak of layers do not make sense ({type(error).__name__}: {error})"
        ) from None


def _cut(
    config: Mapping[str, Any], family: Family, renumbering: Renumbering, read: Mapping[str, Any], where: str
) -> dict[str, Any]:
    new = copy.deepcopy(dict(config))
    section = _section(new, family, where)
    _refuse_unknown_lists(new, renumbering.layers, _known(family), family.section, where)
    with _sense(f"{family.section}." if section is not new else "", where):
        spell(section, family, renumbering, read)
    if "quantization_config" in new:
        new["quantization_config"] = _renumber_mentions(new["quantization_config"], family, renumbering, where)
    return new


def _known(family: Family) -> set[str]:
    named = (
        *COMMON_LISTS, *family.lists, *family.indices, *family.numbered, *family.cycles, *family.counts, *family.ends,
        *family.tails, *family.periods, *family.strides, *family.root_depth, *family.runs, *family.plain,
    )  # fmt: skip
    return {part for key in named for part in key.split(".")}


def changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """What differs between two configs: `{"text_config.layer_types": {"before": ..., "after": ...}}`, or None."""
    changed: dict[str, dict[str, Any]] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changed |= changes(old, new, f"{path}{key}.")
        else:
            changed[path + key] = {"before": old, "after": new}
    return changed


def _section(config: Mapping[str, Any], family: Family, where: str) -> Any:
    if family.section is None:
        return config
    section = config.get(family.section)
    if section is None and family.flat:
        return config
    if not isinstance(section, dict):
        raise CheckpointError(f"{where}: config.json has no {family.section}, which describes the text decoder")
    return section


def _refuse_unknown_lists(
    config: Mapping[str, Any], layers: int, known: set[str], section: str | None, where: str
) -> None:
    for key, value in config.items():
        if key in known or key in NOT_OF_LAYERS or (key.endswith("_config") and key != section):
            continue  # another part of a multimodal model counts its own layers
        numbered = isinstance(value, dict) and bool(value) and all(str(name).isdecimal() for name in value)
        if numbered or (isinstance(value, list) and len(value) == layers):
            raise CheckpointError(
                f"{where}: config.json's {key} has an entry for each of {layers} layers, it seems, and prune does not "
                "know what it means; a guess could change the model, so this cut is refused"
            )
        if isinstance(value, dict):
            _refuse_unknown_lists(value, layers, known, section, where)


def _renumber_mentions(value: Any, family: Family, renumbering: Renumbering, where: str) -> Any:
    """Module names in a quantisation config (`model.layers.19.mlp` must stay unquantised) follow their layers.

    Layers stored behind the decoder's own follow the kept ones.
    """
    stem = re.escape(family.prefixes[0].split(".")[-2])
    plain = re.compile(rf"((?:^|\.){stem}\.)(\d+)(?=\.|$)")
    pattern = re.compile(rf"\b{stem}(?:\\\.\d|\\?\.[\[(].*\d)")

    def follow(name: str) -> str | None:
        if pattern.search(name):
            raise CheckpointError(
                f"{where}: quantization_config names layers by a pattern ({name[:60]!r}), which a cut cannot renumber"
            )
        match = plain.search(name)
        if match is None:
            return name
        layer = int(match[2])
        if layer >= renumbering.layers:
            number: int | None = len(renumbering.kept) + layer - renumbering.layers
        else:
            number = renumbering.new.get(layer)
        return None if number is None else f"{name[: match.start()]}{match[1]}{number}{name[match.end() :]}"

    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            renamed = {follow(str(key)): walk(entry) for key, entry in part.items()}
            return {key: entry for key, entry in renamed.items() if key is not None}
        if isinstance(part, list):
            entries = [walk(entry) for entry in part]
            return [new for new, old in zip(entries, part, strict=True) if new is not None or old is None]
        return follow(part) if isinstance(part, str) else part

    return walk(value)
