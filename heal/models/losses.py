"""Losses over a large vocabulary, computed in chunks so that logits never stand whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from heal.text.packing import IGNORED
from prune.models.at_once import FLOATS, LOGITS, at_once

Project = Callable[[torch.Tensor], torch.Tensor]
# (logits of n positions, which of the chunk's they are, where to write the derivative by them or None) -> summed loss
PieceLoss = Callable[[torch.Tensor, slice, "torch.Tensor | None"], torch.Tensor]


def chunked_cross_entropy(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    project: Project,
    *,
    vocabulary: int,
    places: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of -log p(label) over the positions that have one, in nats and fp32; see `heal.models.losses`.

    Args:
        hidden: (B, T, d) states that the head projects.
        labels: (B, T), not shifted: `hidden[:, t]` predicts `labels[:, t + 1]`; -100 is passed over.
        project: (N, d) -> (N, V) logits.
        vocabulary: V, which sets the chunk.
        places: see `labelled`.
    """
    states, targets = labelled(hidden, labels, places)

    def loss_of(part: slice) -> PieceLoss:
        def loss(logits: torch.Tensor, rows: slice, slope: torch.Tensor | None) -> torch.Tensor:
            value, steep = plain_piece(logits, targets[part][rows], slope is not None)
            if slope is not None and steep is not None:
                slope.copy_(steep)
            return value

        return loss

    return chunked_loss(states, project, loss_of, vocabulary=vocabulary)


def plain_piece(logits: torch.Tensor, targets: torch.Tensor, wanted: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Sum of -log p(target) of n positions, and if `wanted` its derivative by the logits, p - onehot: (n, V), fp32."""
    chances = torch.log_softmax(logits, -1, dtype=torch.float32)
    value = -chances.gather(-1, targets[:, None]).sum()
    if not wanted:
        return value, None
    steep = chances.exp_()
    steep[torch.arange(len(targets), device=targets.device), targets] -= 1
    return value, steep


def labelled(
    states: torch.Tensor, labels: torch.Tensor, places: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The N states that predict a label, and these labels.

    Args:
        states: (B, T, d).
        labels: (B, T), not shifted: `states[:, t]` predicts `labels[:, t + 1]`; -100 is passed over.
        places: (N,), which of the B * T positions predict a label, rising (`heal.text.packing.collate_for_loss`). They
            are found in the labels if None: a GPU then has to tell how many there are, and what follows waits for it.

    Returns:
        (N, d) states and (N,) labels, int64.
    """
    flat = labels.reshape(-1).long()
    if places is None:
        predicted = labels != IGNORED
        predicted[:, 0] = False
        places = predicted.reshape(-1).nonzero().squeeze(-1) - 1
    return states.reshape(-1, states.shape[-1])[places], flat[places + 1]


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
    chunk = max(64, at_once(LOGITS, states.device) // vocabulary)
    piece = max(8, at_once(FLOATS, states.device) // vocabulary)
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
