"""From a tensor's name to its layer and back: `model.layers.19.mlp.up_proj.weight` is layer 19."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prune.errors import CheckpointError

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,5})(?=\.|$)")


@dataclass(frozen=True)
class LayerNames:
    """The prefix under which a checkpoint numbers its decoder layers, such as `model.layers.`."""

    prefix: str

    def layer(self, name: str) -> int | None:
        """The layer a tensor belongs to, 0-based; None for what stands outside the layers (embeddings, norm, head)."""
        if not name.startswith(self.prefix):
            return None
        match = _NUMBER.match(name, len(self.prefix))
        return int(match[0]) if match else None

    def renamed(self, name: str, places: Mapping[int, int]) -> str | None:
        """The name after the cut; None if its layer is dropped.

        Args:
            places: kept layer in the source -> layer in the pruned model.
        """
        layer = self.layer(name)
        if layer is None:
            return name
        if layer not in places:
            return None
        return f"{self.prefix}{places[layer]}{name[len(self.prefix) + len(str(layer)) :]}"


def find_layer_names(names: Iterable[str], prefixes: Iterable[str], where: str) -> tuple[LayerNames, int]:
    """Which of a family's prefixes a checkpoint uses (with or without the base model's), and how many layers it holds.

    Args:
        names: all tensor names.
        prefixes: what the family may use.
        where: what to name in an error.

    Raises:
        CheckpointError: no layer found, two numberings at once, or numbers that skip.
    """
    names = list(names)
    found: dict[str, set[int]] = {}
    for prefix in prefixes:
        rule = LayerNames(prefix)
        layers = {layer for name in names if (layer := rule.layer(name)) is not None}
        if layers:
            found[prefix] = layers
    if not found:
        raise CheckpointError(f"{where}: no tensor is named {' or '.join(p + '0' for p in prefixes)}")
    if len(found) > 1:
        raise CheckpointError(f"{where}: layers are numbered under {' and under '.join(sorted(found))} at once")
    ((prefix, layers),) = found.items()
    missing = set(range(len(layers))) - layers
    if missing:
        raise CheckpointError(f"{where}: tensors of layer {prefix}{min(missing)} are missing, so layer numbers skip")
    return LayerNames(prefix), len(layers)
