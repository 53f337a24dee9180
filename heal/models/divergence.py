"""How far a student's predictions are from a teacher's, never with all logits at once: pure tensor work.

Forward KL with a temperature, as in Hinton et al. 2015 (arXiv 1503.02531, section 2): T^2 * KL(teacher || student),
both softened by T, so that the gradient's size does not depend on T.
"""

from __future__ import annotations

import torch

from heal.models.losses import PieceLoss, Project, chunked_loss, labelled, plain_piece


def chunked_divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    project: Project,
    *,
    teacher_project: Project | None,
    vocabulary: int,
    temperature: float,
    plain: float,
    places: torch.Tensor | None,
) -> torch.Tensor:
    """Sum of (1 - plain) * T^2 * KL(teacher || student) + plain * -log p(label) over the labelled positions, in nats.

    Differentiable by the student's states alone; arithmetic on logits is fp32; see `heal.models.losses`.

    Args:
        student: (B, T, d) states that the head projects; gets the gradient.
        teacher: (B, T, d) states of the teacher at the same positions.
        labels: (B, T), not shifted: position t counts where `labels[:, t + 1]` is not -100.
        project: (N, d) -> (N, V) logits of the student; its weights are frozen.
        teacher_project: the same for the teacher; `project` if None.
        vocabulary: V, which sets the chunk.
        temperature: T, above 0.
        plain: share of the plain loss, in [0, 1].
        places: see `heal.models.losses.labelled`.
    """
    ours, targets = labelled(student, labels, places)
    theirs, _ = labelled(teacher, labels, places)

    def loss_of(part: slice) -> PieceLoss:
        goals = (teacher_project or project)(theirs[part])

        def loss(logits: torch.Tensor, rows: slice, slope: torch.Tensor | None) -> torch.Tensor:
            return _piece(logits, goals[rows], targets[part][rows], temperature, plain, slope)

        return loss

    return chunked_loss(ours, project, loss_of, vocabulary=vocabulary)


def _piece(
    logits: torch.Tensor,
    goals: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    plain: float,
    slope: torch.Tensor | None,
) -> torch.Tensor:
    """Loss of n positions; its derivative by the student's logits, (n, V), is written into `slope`.

    d/dz of T^2 KL(q || softmax(z / T)) is T (p - q).
    """
    total = logits.new_zeros((), dtype=torch.float32)
    steep = None
    if plain < 1:
        theirs, ours = _log_chances(goals, temperature), _log_chances(logits, temperature)
        chances = theirs.exp()
        total += (1 - plain) * temperature**2 * torch.dot(chances.view(-1), theirs.sub_(ours).view(-1))
        if slope is not None:
            steep = ours.exp_().sub_(chances)
            if temperature != 1 or plain:
                steep.mul_((1 - plain) * temperature)
    if plain > 0:
        value, plainly = plain_piece(logits, targets, slope is not None)
        total += plain * value
        if plainly is not None:
            steep = plainly.mul_(plain) if steep is None else steep.add_(plainly, alpha=plain)
    if slope is not None and steep is not None:
        slope.copy_(steep)
    return total


def _log_chances(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    softened = logits if temperature == 1 else logits.float() / temperature
    return torch.log_softmax(softened, -1, dtype=torch.float32)


def state_distance(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, places: torch.Tensor | None
) -> torch.Tensor:
    """Sum over the labelled positions of |s - t|^2 / |t|^2, fp32: each token counts alike, however massive its state.

    Args:
        student, teacher: (B, T, d) hidden states.
        labels, places: see `chunked_divergence`.
    """
    ours, theirs = (labelled(states, labels, places)[0].float() for states in (student, teacher))
    return ((ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp_min(1e-12)).sum()
