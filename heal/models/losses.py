"""Next-token cross-entropy that never holds the whole [tokens, vocabulary] matrix of logits: pure tensor work."""

from __future__ import annotations

import torch

from heal.models.chunks import PieceLoss, Project, chunked_loss, labelled


def chunked_cross_entropy(
    hidden: torch.Tensor, labels: torch.Tensor, project: Project, *, vocabulary: int
) -> torch.Tensor:
    """Sum of -log p(label) over the positions that have one, in nats and fp32; see `heal.models.chunks`.

    Args:
        hidden: (B, T, d) states that the head projects.
        labels: (B, T), not shifted: `hidden[:, t]` predicts `labels[:, t + 1]`; -100 is passed over.
        project: (N, d) -> (N, V) logits.
        vocabulary: V, which sets the chunk.
    """
    states, targets = labelled(hidden, labels)

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
