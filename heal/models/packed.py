"""Packed rows in a decoder: what tells it where documents begin, without asking the GPU.

With SDPA, transformers makes a mask of the positions, which restart with each document. It asks the device whether they
do, and waits for the answer. FlashAttention's kernels for sequences of several lengths take no mask, only the places
where documents begin. Transformers would find these in the positions for a batch of one row alone: rows of a larger
batch would see all that is before in their row. So they are always handed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from prune.common.errors import RegrowthError
from prune.models.attention import is_flash
from prune.models.loading import text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRIED = 24  # tokens of each of two documents


def uses_flash(model: PreTrainedModel) -> bool:
    """Whether its attention is FlashAttention, which needs `decoder_inputs` with bounds."""
    return is_flash(text_config(model.config)._attn_implementation)


def decoder_inputs(
    model: PreTrainedModel, input_ids: torch.Tensor, position_ids: torch.Tensor | None, bounds: torch.Tensor | None
) -> dict[str, Any]:
    """What the decoder takes for B packed rows of T tokens.

    Args:
        input_ids, position_ids: (B, T).
        bounds: (documents + 1,) int32, where documents begin in the flattened rows, and B * T; see
            `heal.text.packing.collate_for_loss`.
    """
    batch = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
    if bounds is None or not uses_flash(model):
        return batch
    longest = input_ids.shape[1]  # no document is longer: the kernel takes any bound
    return batch | {
        "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip


@contextmanager
def told_of_documents(rows: int, bounds: torch.Tensor | None) -> Iterator[None]:
    """While it lasts, transformers need not ask the device whether the rows hold several documents.

    Its function for that is replaced by one of the same answers, by the number of bounds.
    """
    from transformers import masking_utils

    usual = getattr(masking_utils, "find_packed_sequence_indices", None)
    if bounds is None or usual is None:
        yield
        return
    several = len(bounds) - 1 > rows

    def find(position_ids: torch.Tensor) -> torch.Tensor | None:
        if not several:
            return None
        steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1)
        return (steps != 1).cumsum(-1)

    masking_utils.find_packed_sequence_indices = find
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = usual


@torch.no_grad()
def check_documents(model: PreTrainedModel) -> None:
    """Refuse FlashAttention in a family that does not hand the bounds on: its documents would see one another.

    The second of two documents in a row must be what it is alone.

    Raises:
        RegrowthError: it is not.
    """
    if not uses_flash(model):
        return
    device, vocabulary = model.get_input_embeddings().weight.device, text_config(model.config).vocab_size
    number = torch.arange(2 * _TRIED, device=device)
    ids, positions = (number * 7919 + 11) % vocabulary, number % _TRIED
    bounds = torch.tensor([0, _TRIED, 2 * _TRIED, 3 * _TRIED, 4 * _TRIED], dtype=torch.int32, device=device)
    decoder = model.get_decoder()
    attention = text_config(model.config)._attn_implementation
    try:
        packed, alone = (
            decoder(**decoder_inputs(model, rows, places, ends)).last_hidden_state[-1, -_TRIED:].float()
            for rows, places, ends in (
                (ids.expand(2, -1), positions.expand(2, -1), bounds),
                (ids[None, _TRIED:], positions[None, _TRIED:], bounds[:2]),
            )
        )
    except TypeError as error:  # a decoder that takes no bounds
        raise RegrowthError(f"{type(model).__name__} has no --attention {attention} for packed documents") from error
    apart = float((packed - alone).norm() / alone.norm())
    if not apart <= 0.05:  # rounding in 16 bits is a tenth of this; what sees another document is far beyond
        raise RegrowthError(
            f"{type(model).__name__} does not keep packed documents apart with "
            f"--attention {attention}: the second of two is {apart:.0%} off; "
            "use --attention auto"
        )
