"""Held-out loss and logits of a model that does not fit, and of versions of it: layer by layer, in one walk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from heal.models.dressing import Dressing
from heal.models.lm_head import projection
from heal.models.losses import chunked_cross_entropy
from heal.text.packing import Row, in_batches
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError
from prune.models.loading import text_config
from prune.models.walks.layer_files import fits
from prune.models.walks.layerwise import Layerwise, Walked, walked
from prune.models.walks.walking import Route

PLAIN = Dressing()
Batches = Sequence[Mapping[str, torch.Tensor]]


def layer_files(source: Source, dtype: torch.dtype | str, device: str, cap: int | None = None) -> Layerwise | None:
    """The model as it is run from its files, where it does not fit; None where it does.

    Args:
        cap: bytes that count as the memory there is.

    Returns:
        None, too, for a model that cannot be run so and may fit after all: loading it tells.

    Raises:
        CheckpointError: it cannot be run so, and is above `cap`.
    """
    if fits(source, dtype, device, cap):
        return None
    files = Layerwise(source, cap=cap, dtype=dtype, device=device)
    try:
        files.check()
    except CheckpointError:
        if cap is not None:
            raise
        return None
    return files


def losses_from_files(
    files: Layerwise, rows: Sequence[Row], versions: Mapping[str, Dressing], *, batch_size: int
) -> dict[str, float]:
    """Mean -log p in nats per predicted token of every version, as `heal.models.held_out.mean_loss` gives it."""
    batches = in_batches(rows, batch_size)
    with _walked(files, batches, versions) as ends:
        totals = summed_losses(files, ends, batches)
    count = sum(row.targets for row in rows)
    return {route.adapter or "": total / count for route, total in totals.items()}


def summed_losses(files: Layerwise, ends: Walked, batches: Batches) -> dict[Route, float]:
    """Sum of -log p in nats over the labels of all batches, for every route that was walked; loads the head."""
    project, vocabulary = projection(files.model), text_config(files.model.config).vocab_size
    totals: dict[Route, float] = {}
    with files.head():
        for number, batch in enumerate(batches):
            labels, inputs = batch["labels"].to(files.device), without_labels(batch)
            for route, state in ends.states(number).items():
                hidden = files.hidden(state, **inputs)
                loss = chunked_cross_entropy(hidden, labels, project, vocabulary=vocabulary)
                totals[route] = totals.get(route, 0.0) + loss.item()
    return totals


def logits_from_files(files: Layerwise, batches: Batches, version: Dressing = PLAIN) -> torch.Tensor:
    """(B * T, V) logits in fp32, on the CPU, of one version on batches without labels, one after the other."""
    logits = []
    with _walked(files, batches, {"": version}) as ends, files.head():
        for number, batch in enumerate(batches):
            (state,) = ends.states(number).values()
            logits.append(files.logits(state, **without_labels(batch)).flatten(0, 1).cpu())
    return torch.cat(logits)


@contextmanager
def _walked(files: Layerwise, batches: Batches, versions: Mapping[str, Dressing]) -> Iterator[Walked]:
    """The walk of all versions; each is the route whose adapter is its name."""
    routes = [Route(adapter=name, adapted_from=dressing.first(files)) for name, dressing in versions.items()]

    def dress(name: str, index: int, layer: Any) -> Any:
        return versions[name].worn(files, index, layer)

    with walked(files, [without_labels(batch) for batch in batches], routes, dress=dress) as ends:
        yield ends


def without_labels(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the decoder takes of a batch."""
    return {name: tensor for name, tensor in batch.items() if name != "labels"}
