"""States of words: the mean over a word's sub-words of what enters a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from prune.common.errors import RegrowthError
from prune.instruments.concepts.occurrences import Sample
from prune.models.batches import padded, plan_batches
from prune.models.loading import text_config
from prune.models.walks.hooks import decoder_of, watching
from prune.scanning.samples import batch_budget

Floats = NDArray[np.float32]
_BYTES = 1 << 30  # states of one sample that are held at once; with more, the text is run again


def word_states(
    model: Any, sample: Sample, layers: Sequence[int], advance: Callable[[float], None] = lambda layers: None
) -> dict[int, Floats]:
    """The states x[l] of all occurrences, each the mean of its sub-words' states, at the layers asked for.

    Args:
        layers: l of the states, 0 to L; x[L] is what leaves the last layer, before the final norm.
        advance: called after each batch with the layers that it comes to: all of them, times its share of the windows.

    Returns:
        l -> (N, D) in float32.

    Raises:
        RegrowthError: a state is not finite.
    """
    states: dict[int, Floats] = {}
    of_window: dict[int, list[int]] = {}
    for number, occurrence in enumerate(sample.occurrences):
        of_window.setdefault(occurrence.window, []).append(number)
    decoder, wanted = decoder_of(model), frozenset(layers)
    windows = [window for window in range(len(sample.windows)) if window in of_window]
    batches = plan_batches(
        [len(sample.windows[window]) for window in windows], batch_size="auto", budget=batch_budget(model.device.type)
    )
    with torch.no_grad(), watching(model) as watch:
        for batch in batches:
            ids, mask = padded([sample.windows[windows[row]] for row in batch])
            numbers: list[int] = []
            places, owners = [], []
            for row, window in enumerate(windows[each] for each in batch):
                for number in of_window[window]:
                    occurrence = sample.occurrences[number]
                    span = range(occurrence.first, occurrence.past)
                    places += [row * ids.shape[1] + token for token in span]
                    owners += [len(numbers)] * len(span)
                    numbers.append(number)
            picked, owner = torch.tensor(places), torch.tensor(owners)

            def receive(
                layer: int,
                hidden: torch.Tensor,
                picked: torch.Tensor = picked,
                owner: torch.Tensor = owner,
                numbers: list[int] = numbers,
            ) -> None:
                if layer not in wanted:
                    return
                mean = _means(hidden.flatten(0, 1).index_select(0, picked.to(hidden.device)).float(), owner)
                if layer not in states:
                    states[layer] = np.empty((len(sample.occurrences), mean.shape[1]), dtype=np.float32)
                states[layer][numbers] = mean.numpy()

            watch.receive = receive
            decoder(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
            watch.receive = None
            advance(len(layers) * len(batch) / len(windows))
    for layer in sorted(states):
        if not np.isfinite(states[layer]).all():
            raise RegrowthError(
                f"a state x[{layer}] is not finite (NaN or infinite); try --dtype float32 or bfloat16, or look at the "
                "model's weights"
            )
    return states


def _means(picked: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Mean of the rows of each owner, (owners, D) on the CPU."""
    picked = picked.cpu()
    count = int(owner[-1]) + 1
    sums = torch.zeros(count, picked.shape[1]).index_add_(0, owner, picked)
    return sums / torch.bincount(owner, minlength=count)[:, None]


def layer_groups(model: Any, sample: Sample, layers: Sequence[int]) -> list[list[int]]:
    """The layers in groups whose states fit into 1 GiB, one layer at least; the text is run once for each group."""
    width = int(text_config(model.config).hidden_size)
    room = max(1, _BYTES // (4 * width * max(1, len(sample.occurrences))))
    return [list(layers[begin : begin + room]) for begin in range(0, len(layers), room)]
