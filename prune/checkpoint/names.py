"""From a tensor's name to its layer and back: `model.layers.19.mlp.up_proj.weight` is layer 19."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prune.common.errors import CheckpointError

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,5})(?=\.|$)")


@dataclass(frozen=True)
class LayerNames:
    """The prefix under which a checkpoint numbers its decoder layers, such as `model.layers.`.

    A few families keep parts of a layer in lists beside it: `beside` gives their prefixes, and the layer to which
    number 0 belongs.
    """

    prefix: str
    beside: tuple[tuple[str, int], ...] = ()

    def layer(self, name: str) -> int | None:
        """The layer a tensor belongs to, 0-based; None for what stands outside the layers (embeddings, norm, head)."""
        parsed = self._parsed(name)
        return parsed[2] if parsed else None

    def renamed(self, name: str, numbers: Mapping[int, int]) -> str | None:
        """The name after the cut; None if its layer is dropped.

        Args:
            numbers: kept layer in the source -> layer in the pruned model.
        """
        parsed = self._parsed(name)
        if parsed is None:
            return name
        prefix, first, layer = parsed
        if layer not in numbers:
            return None
        return f"{prefix}{numbers[layer] - first}{name[len(prefix) + len(str(layer - first)) :]}"

    def _parsed(self, name: str) -> tuple[str, int, int] | None:
        """Prefix, the layer to which number 0 belongs, and the layer."""
        for prefix, first in ((self.prefix, 0), *self.beside):
            if name.startswith(prefix) and (match := _NUMBER.match(name, len(prefix))):
                return prefix, first, int(match[0]) + first
        return None


def find_layer_names(
    names: Iterable[str], prefixes: Iterable[str], where: str, beside: Iterable[tuple[str, int]]
) -> tuple[LayerNames, int]:
    """Which of a family's prefixes a checkpoint uses (with or without the base model's), and how many layers it holds.

    Args:
        where: what to name in an error.
        beside: lists that hold parts of layers; see `LayerNames`.

    Raises:
        CheckpointError: no layer found, two numberings at once, or numbers that skip.
    """
    names = list(names)
    numbered: dict[str, set[int]] = {}
    for prefix in prefixes:
        rule = LayerNames(prefix)
        layers = {layer for name in names if (layer := rule.layer(name)) is not None}
        if layers:
            numbered[prefix] = layers
    if not numbered:
        raise CheckpointError(f"{where}: no tensor is named {' or '.join(p + '0' for p in prefixes)}")
    if len(numbered) > 1:
        raise CheckpointError(f"{where}: layers are numbered under {' and under '.join(sorted(numbered))} at once")
    ((prefix, layers),) = numbered.items()
    missing = set(range(len(layers))) - layers
    if missing:
        raise CheckpointError(f"{where}: tensors of layer {prefix}{min(missing)} are missing, so layer numbers skip")
    return LayerNames(prefix, tuple(beside)), len(layers)
