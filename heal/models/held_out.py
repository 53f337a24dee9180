"""Loss on held-out rows, in nats per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heal.models.lm_head import projection
from heal.models.losses import chunked_cross_entropy
from heal.models.packed import decoder_inputs
from heal.text.packing import IGNORED, Row, collate_for_loss
from heal.text.sources import HeldOut, TextSource, hold_out
from prune.checkpoint.source import locate
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.machine.processes import gather, rank_and_world
from prune.models.loading import load_model, load_tokenizer, pick_device, text_config
from prune.models.precision import pick_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def mean_loss(model: PreTrainedModel, rows: Sequence[Row], *, batch_size: int = 4) -> float:
    """Mean -log p in nats per predicted token over all rows; the model keeps the mode (train or eval) it was in."""
    return summed_loss(model, rows, batch_size=batch_size) / sum(row.targets for row in rows)


@torch.no_grad()
def summed_loss(model: PreTrainedModel, rows: Sequence[Row], *, batch_size: int = 4, wrapper: Any = None) -> float:
    """Sum of -log p in nats over all rows; the model keeps the mode (train or eval) it was in.

    Args:
        wrapper: what must be called in the model's place because it gathers weights first (FSDP); the loss is then
            the one that the model was given for training (`heal.models.lm_head`).
    """
    training = model.training
    model.eval()
    total = 0.0
    try:
        for start in range(0, len(rows), batch_size):
            some = collate_for_loss(rows[start : start + batch_size])
            batch = {name: tensor.to(model.device) for name, tensor in some.items()}
            if wrapper is not None:
                total += wrapper(**batch, num_items_in_batch=1)["loss"].item()
                continue
            inputs = decoder_inputs(model, batch["input_ids"], batch["position_ids"], batch["bounds"])
            hidden = model.get_decoder()(**inputs).last_hidden_state
            vocabulary = text_config(model.config).vocab_size
            total += chunked_cross_entropy(hidden, batch["labels"], projection(model), vocabulary=vocabulary).item()
    finally:
        model.train(training)
    return total


def held_out_losses(model: PreTrainedModel, held_out: HeldOut, *, batch_size: int = 4, wrapper: Any = None) -> Losses:
    """The loss on every held-out text. Where several processes run, each takes a share of the rows, and all call this.

    Args:
        wrapper: see `summed_loss`.
    """
    rank, world = rank_and_world()
    sums = []
    for text in held_out.texts:
        share = text.rows[rank::world]
        if wrapper is not None and len(share) < -(-len(text.rows) // world):  # all must call a wrapper equally often
            first = text.rows[0]
            share = [*share, Row(first.tokens, first.positions, np.full_like(first.labels, IGNORED))]
        sums.append(summed_loss(model, share, batch_size=batch_size, wrapper=wrapper))
    totals = [sum(parts) for parts in zip(*gather(sums), strict=True)]
    counts = [text.targets for text in held_out.texts]
    main = [index for index, text in enumerate(held_out.texts) if not text.domain]
    loss = sum(totals[index] for index in main) / sum(counts[index] for index in main)
    return Losses(loss, {text.name: totals[i] / counts[i] for i, text in enumerate(held_out.texts)})


@checks_arguments
def held_out_loss(
    model: str | Path,
    text: TextSource,
    *,
    length: int = 512,
    batch_size: int = 4,
    device: str = "auto",
    dtype: str = "auto",
    max_memory: int | None = None,
) -> CheckpointLoss:
    """Held-out loss of any checkpoint on the rows that `qlora` measures on.

    Args:
        model: a model folder or hub id.
        length: tokens per row; a loss is comparable only with one of the same length, text and tokenizer.
        max_memory: bytes; a model above them is run layer by layer from its files, to the same number. What the
            machine has if None.

    Raises:
        UsageError: a length or a batch size that is too small.
        CheckpointError: it cannot be loaded, or is above `max_memory` and of a family that is not run so.
    """
    from heal.models.from_files import PLAIN, layer_files, losses_from_files

    for name, number, least in (("length", length, 8), ("batch_size", batch_size, 1), ("max_memory", max_memory, 1)):
        if number is not None and number < least:
            raise UsageError(f"{name}={number}: use {least} or more")
    text.check()
    source = locate(model)
    rows = hold_out(text, load_tokenizer(source), length=length).rows
    device = pick_device(device)
    picked = pick_dtype(dtype, device=device)
    if files := layer_files(source, picked, device, max_memory):
        loss = losses_from_files(files, rows, {"": PLAIN}, batch_size=batch_size)[""]
    else:
        loss = mean_loss(load_model(source, dtype=picked, device=device), rows, batch_size=batch_size)
    return CheckpointLoss(loss, sum(row.targets for row in rows), text.identity())


@dataclass(frozen=True)
class CheckpointLoss:
    """Held-out loss of a checkpoint, in nats per token, over how many tokens, and the identity of the text."""

    loss: float
    tokens: int
    text: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Losses:
    """Held-out losses in nats per token: `loss` over all texts but domains', `texts` of each by its name."""

    loss: float
    texts: dict[str, float]
