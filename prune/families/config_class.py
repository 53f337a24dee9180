"""What transformers' config class makes of a config.json: how it fills a field on which the JSON is silent.

Only configs that leave something to their class come here, so that all others are cut without importing transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


class UnansweredError(ValueError):
    """The class cannot be asked; the message says why."""


def ask_class(config: Mapping[str, Any], section: str | None, keys: Sequence[str]) -> dict[str, Any]:
    """The values that transformers gives to fields of a config, as stock `from_pretrained` would read it.

    Args:
        config: config.json, with its `model_type` and number of layers.
        section: the key of the nested config that describes the decoder; None where the config is flat.
        keys: fields of that section.

    Returns:
        `{key: value}`, in JSON's types; None where the class leaves a field empty.

    Raises:
        UnansweredError: this transformers does not know the family or the field, or cannot read the config.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    kind, version = config["model_type"], f"transformers {__version__}"
    if kind not in CONFIG_MAPPING:
        raise UnansweredError(f"{version} does not know the family {kind!r}")
    stock = {key: value for key, value in config.items() if key != "auto_map"}  # no code of the model's own
    try:
        with TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(stock), encoding="utf-8")
            read = AutoConfig.from_pretrained(folder)
    except Exception as error:  # a class may raise anything over fields that make no sense
        message = " ".join(str(error).split())
        raise UnansweredError(f"{version} cannot read the rest ({type(error).__name__}: {message})") from None
    part = getattr(read, section) if section else read
    try:
        return {key: _plain(getattr(part, key)) for key in keys}
    except AttributeError as error:
        raise UnansweredError(f"{version} has no {error.name} for {kind!r}") from None


def _plain(value: Any) -> Any:
    """JSON has no tuples."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
