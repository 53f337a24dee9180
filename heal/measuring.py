"""Loss on held-out rows, in nats per token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from heal.data import TextSource, hold_out
from heal.head import projection
from heal.losses import chunked_cross_entropy
from heal.packing import Row
from prune.models import load_model, load_tokenizer, locate, pick_device, pick_dtype, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def collate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """B rows of T tokens -> `input_ids`, `position_ids`, `labels`, each (B, T); no mask: positions tell documents."""
    return {
        "input_ids": torch.from_numpy(np.stack([row.tokens for row in rows])).long(),
        "position_ids": torch.from_numpy(np.stack([row.positions for row in rows])).long(),
        "labels": torch.from_numpy(np.stack([row.labels for row in rows])).long(),
    }


@torch.no_grad()
def mean_loss(model: PreTrainedModel, rows: Sequence[Row], *, batch_size: int = 4) -> float:
    """Mean -log p in nats per predicted token over all rows; the model keeps the mode (train or eval) it was in."""
    project, vocabulary = projection(model), text_config(model.config).vocab_size
    decoder = model.get_decoder()
    training = model.training
    model.eval()
    total, count = 0.0, 0
    try:
        for start in range(0, len(rows), batch_size):
            batch = {
                name: tensor.to(model.device) for name, tensor in collate(rows[start : start + batch_size]).items()
            }
            hidden = decoder(
                input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
            ).last_hidden_state
            total += chunked_cross_entropy(hidden, batch["labels"], project, vocabulary=vocabulary).item()
            count += sum(row.targets for row in rows[start : start + batch_size])
    finally:
        model.train(training)
    return total / count


def held_out_loss(
    model: str | Path,
    text: TextSource,
    *,
    length: int = 512,
    batch_size: int = 4,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, Any]:
    """Held-out loss of any checkpoint on the rows that `qlora` measures on: `{"loss", "tokens", "text"}`.

    Args:
        model: a model folder or hub id.
        length: tokens per row; a loss is comparable only with one of the same length, text and tokenizer.
    """
    source = locate(model)
    rows = hold_out(text, load_tokenizer(source), length=length).rows
    device = pick_device(device)
    loaded = load_model(source, dtype=pick_dtype(dtype, device=device), device=device)
    loss = mean_loss(loaded, rows, batch_size=batch_size)
    return {"loss": loss, "tokens": sum(row.targets for row in rows), "text": text.identity()}
