"""Next-token cross-entropy that never holds the whole [tokens, vocabulary] matrix of logits: pure tensor work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

_LOGITS_AT_ONCE = 1 << 26  # numbers per chunk: 256 MiB in fp32, whatever the vocabulary


def chunked_cross_entropy(
    hidden: torch.Tensor, labels: torch.Tensor, project: Callable[[torch.Tensor], torch.Tensor], *, vocabulary: int
) -> torch.Tensor:
    """Sum of -log p(label) over the positions that have one, in nats and fp32.

    The head is frozen while healing, so each chunk's gradient with respect to its hidden states is taken in the
    forward pass, at once, and its logits are freed: one pass through the head fewer than recomputing them would cost.

    Args:
        hidden: (B, T, d) states that the head projects.
        labels: (B, T), not shifted: `hidden[:, t]` predicts `labels[:, t + 1]`; -100 is passed over.
        project: (N, d) -> (N, V) logits.
        vocabulary: V, which sets the chunk.
    """
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = labels[:, 1:].reshape(-1).long()
    kept = targets != -100
    states, targets = states[kept], targets[kept]
    chunk = max(64, _LOGITS_AT_ONCE // vocabulary)
    return _ChunkedCrossEntropy.apply(states, targets, project, chunk)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        targets: torch.Tensor,
        project: Callable[[torch.Tensor], torch.Tensor],
        chunk: int,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(states) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            with torch.set_grad_enabled(wanted):
                piece = states[part].detach().requires_grad_(wanted)
                loss = cross_entropy(project(piece).float(), targets[part], reduction="sum")
            if gradient is not None:
                gradient[part] = torch.autograd.grad(loss, piece)[0]
            total += loss.detach()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None
