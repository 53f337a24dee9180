"""A scan of a model whose weights do not fit: all samples at each layer, as `prune.models.walks.layerwise` walks."""

from __future__ import annotations

import torch

from prune.checkpoint.source import Source
from prune.common.errors import UsageError
from prune.common.machine.memory import available
from prune.common.screen.terminal import progress, screen
from prune.models.at_once import STATES_SHARE
from prune.models.batches import padded
from prune.models.precision import pick_dtype
from prune.models.walks.layerwise import Layerwise, walked
from prune.models.walks.walking import Route
from prune.scanning.samples import Samples, batch_budget, own_batches
from prune.scanning.settings import ScanSettings
from prune.scanning.states import BatchStates
from prune.scanning.sums import ScanSums


def measure_streamed(
    source: Source,
    samples: Samples,
    settings: ScanSettings,
    *,
    trust_remote_code: bool = False,
    show_progress: bool = False,
) -> ScanSums:
    """As `prune.scanning.scan.measure_in_memory`, layer by layer from the model's files; equal to it but for rounding.

    Raises:
        UsageError: with `tokens` "all", states of all layers that do not fit.
        CheckpointError: weights stored in a form other than the model's own.
    """
    if show_progress:
        screen().print(
            "The weights do not fit in memory: running the model layer by layer from its files. "
            "If such a scan is interrupted, it begins anew."
        )
    device = settings.device
    dtype = pick_dtype(settings.dtype, device=device)
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    files = Layerwise(source, cap=settings.max_memory, **options)
    count = len(files.layers)
    share = own_batches(samples.windows, settings.batch_size, batch_budget(device))
    batches = [padded([samples.windows[i] for i in batch]) for _, batch in share]
    if settings.tokens == "all":
        memory = available(device) if settings.max_memory is None else settings.max_memory
        size = sum(ids.numel() for ids, _ in batches) * files.width * files.dtype.itemsize * (count + 1)
        if size > memory * STATES_SHARE:
            most = int(len(samples.windows) * memory * STATES_SHARE / size)
            raise UsageError(
                f"--tokens all keeps every layer's states: here only {most} samples fit; try --samples {most}"
            )
    taken = [
        BatchStates(mask.bool(), batch, layers=count, tokens=settings.tokens)
        for (_, mask), (_, batch) in zip(batches, share, strict=True)
    ]

    def see(index: int, number: int, before: torch.Tensor | None, after: torch.Tensor) -> None:
        states = taken[number]
        states.take(index + 1, after, None if before is None else states.real(before))

    with progress("Scanning (layers)", count, shown=show_progress) as bar:
        inputs = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches]
        with walked(files, inputs, [Route()], see=see, advance=bar.advance):
            pass
    sums = ScanSums.empty(count, files.dtype)
    for (number, batch), states in zip(share, taken, strict=True):
        sums.add(number, batch, states.result(), samples.labels)
    return sums
