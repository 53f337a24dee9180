"""Heads taken out: their slice of the output projection's input is zero, while reading and while writing alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from prune.choosing.heads import Head
from prune.common.errors import CheckpointError
from prune.instruments.attention import Site


def take_out(sites: Sequence[Site], heads: Iterable[Head]) -> list[RemovableHandle]:
    """Make zero what these heads hand to their layer's output projection, until the handles are removed.

    Raises:
        CheckpointError: the model has no such head.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    known = {site.layer: site for site in sites}
    for layer, gone in by_layer.items():
        if layer not in known or max(gone) >= known[layer].heads:
            raise CheckpointError(f"this model has no head {max(gone)} in layer {layer}; measure its heads again")
    return [
        known[layer].projection.register_forward_pre_hook(_zero(known[layer], gone)) for layer, gone in by_layer.items()
    ]


@contextmanager
def ablated(sites: Sequence[Site], heads: Iterable[Head]) -> Iterator[None]:
    """While the block runs, these heads are taken out; see `take_out`."""
    handles = take_out(sites, heads)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zero(site: Site, gone: Sequence[int]) -> Any:
    kept = torch.ones(site.heads, dtype=torch.bool)
    kept[list(gone)] = False

    def hook(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        given = args[0]
        slices = given.unflatten(-1, (site.heads, site.width))
        return ((slices * kept[:, None].to(given)).flatten(-2), *args[1:])

    return hook


def draw_like(chosen: Sequence[Head], every: Sequence[Head], seed: int) -> list[Head]:
    """Random heads of the same layers: as many of each layer as were chosen there, and none that was chosen.

    Where a layer has too few others, the rest comes from the other layers of the chosen, then from any.

    Raises:
        ValueError: more were chosen than are left.
    """
    draw = np.random.default_rng(seed)
    layers = {layer for layer, _ in chosen}
    others = [head for head in every if head not in set(chosen)]
    if len(others) < len(chosen):
        raise ValueError(f"{len(chosen)} of {len(every)} heads leave too few to draw from")
    order = [others[place] for place in draw.permutation(len(others))]
    wanted = {layer: sum(head[0] == layer for head in chosen) for layer in layers}
    drawn: list[Head] = []
    for layer, count in wanted.items():
        drawn += [head for head in order if head[0] == layer][:count]
    left = [head for head in order if head not in set(drawn)]
    left.sort(key=lambda head: head[0] not in layers)  # stable: random within both
    return sorted(drawn + left[: len(chosen) - len(drawn)])
