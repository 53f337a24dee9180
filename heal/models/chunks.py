"""A loss over the logits of many positions, of which only a chunk exists at a time: pure tensor work.

The head is frozen while healing, so each chunk's gradient with respect to its states is taken in the forward pass, at
once, and its logits are freed: one pass through the head fewer than recomputing them would cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Project = Callable[[torch.Tensor], torch.Tensor]
# (logits of n positions, which of the chunk's they are, where to write the derivative by them or None) -> summed loss
PieceLoss = Callable[[torch.Tensor, slice, "torch.Tensor | None"], torch.Tensor]

LOGITS_AT_ONCE = 1 << 24  # numbers per chunk and matrix, in the head's own dtype: that is what its products like
# Of these, so many at a time go through the arithmetic in fp32: on a CPU, what stays in its caches.
FLOATS_AT_ONCE = {"cpu": 1 << 19}


def labelled(states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The N states that predict a label, and these labels.

    Args:
        states: (B, T, d).
        labels: (B, T), not shifted: `states[:, t]` predicts `labels[:, t + 1]`; -100 is passed over.

    Returns:
        (N, d) states and (N,) labels, int64.
    """
    targets = labels[:, 1:].reshape(-1).long()
    kept = targets != -100
    return states[:, :-1].reshape(-1, states.shape[-1])[kept], targets[kept]


def chunked_loss(
    states: torch.Tensor, project: Project, loss_of: Callable[[slice], PieceLoss], *, vocabulary: int
) -> torch.Tensor:
    """Sum of a loss over positions, fp32; differentiable by `states` alone.

    Args:
        states: (N, d).
        project: (n, d) -> (n, V) logits; its weights are frozen.
        loss_of: called once for each chunk of positions; gives what takes the loss of pieces of that chunk.
        vocabulary: V, which sets the chunk.
    """
    chunk = max(64, LOGITS_AT_ONCE // vocabulary)
    piece = max(8, FLOATS_AT_ONCE.get(states.device.type, LOGITS_AT_ONCE) // vocabulary)
    return _ChunkedLoss.apply(states, project, loss_of, chunk, piece)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        project: Project,
        loss_of: Callable[[slice], PieceLoss],
        chunk: int,
        piece: int,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(states) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, len(states), chunk):
            part = slice(start, start + chunk)
            with torch.set_grad_enabled(wanted):
                leaf = states[part].detach().requires_grad_(wanted)
                logits = project(leaf)
            with torch.no_grad():
                loss, slope = loss_of(part), torch.empty_like(logits) if wanted else None
                for row in range(0, len(logits), piece):
                    rows = slice(row, row + piece)
                    total += loss(logits[rows], rows, None if slope is None else slope[rows])
            if gradient is not None:
                gradient[part] = torch.autograd.grad(logits, leaf, slope)[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None, None
