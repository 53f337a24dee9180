"""A tiny model with an adapter that has learnt nothing but is not zero, rows of tokens, and pools of documents."""

import numpy as np
import torch

from heal.models.adapters import add_adapter
from heal.models.lm_head import attach_loss
from heal.models.targets import find_targets
from heal.text.packing import IGNORED, Row
from tests.support.models import tiny
from tests.support.texts import write_jsonl


def rows(count, vocabulary=300, seed=0):
    """Rows of random tokens; of every third the first ones bear no loss."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        tokens = draw.integers(3, vocabulary, int(draw.integers(8, 24))).astype(np.int32)
        labels = tokens.copy()
        labels[: 1 + 2 * (number % 3)] = IGNORED
        made.append(Row(tokens, np.arange(len(tokens), dtype=np.int32), labels))
    return made


def adapted(*, loss=True, **changes):
    """A tiny Llama with a LoRA adapter of rank 2 whose B is not zero; `loss`: its forward pass gives the loss alone."""
    model = tiny(layers=2, **changes).requires_grad_(False)
    targets = find_targets(model, "all")
    if loss:
        attach_loss(model)
    found = add_adapter(model, targets, rank=2, alpha=4, dropout=0.0, base="tiny").eval()
    draw = torch.Generator().manual_seed(0)
    for name, weight in found.named_parameters():
        if ".lora_" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=draw)
    return found


def write_pool(path, texts, **fields):
    """A pool in which every text has the same other fields."""
    return write_jsonl(path, ({"text": text, **fields} for text in texts))
