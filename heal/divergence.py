"""How far a student's predictions are from a teacher's, never with all logits at once: pure tensor work.

Forward KL with a temperature, as in Hinton et al. 2015 (arXiv 1503.02531, section 2): T^2 * KL(teacher || student),
both softened by T, so that the gradient's size does not depend on T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Project = Callable[[torch.Tensor], torch.Tensor]
LOGITS_AT_ONCE = 1 << 24  # numbers per chunk and matrix, in the head's own dtype: that is what its products like
# Of these, so many at a time go through the arithmetic in fp32: on a CPU, what stays in its caches.
FLOATS_AT_ONCE = {"cpu": 1 << 19}


def chunked_divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    project: Project,
    *,
    teacher_project: Project | None = None,
    vocabulary: int,
    temperature: float = 1.0,
    plain: float = 0.0,
) -> torch.Tensor:
    """Sum of (1 - plain) * T^2 * KL(teacher || student) + plain * -log p(label) over the labelled positions, in nats.

    Like `heal.losses.chunked_cross_entropy`, it takes each chunk's gradient with respect to the student's states in
    the forward pass, and frees its logits; the teacher gets none. Arithmetic on logits is fp32.

    Args:
        student: (B, T, d) states that the head projects; gets the gradient.
        teacher: (B, T, d) states of the teacher at the same positions.
        labels: (B, T), not shifted: position t counts where `labels[:, t + 1]` is not -100.
        project: (N, d) -> (N, V) logits of the student; its weights are frozen.
        teacher_project: the same for the teacher; `project` if None.
        vocabulary: V, which sets the chunk.
        temperature: T, above 0.
        plain: share of the plain loss, in [0, 1].
    """
    targets = labels[:, 1:].reshape(-1).long()
    kept = targets != -100
    ours = student[:, :-1].reshape(-1, student.shape[-1])[kept]
    theirs = teacher[:, :-1].reshape(-1, teacher.shape[-1])[kept]
    chunk = max(64, LOGITS_AT_ONCE // vocabulary)
    block = max(8, FLOATS_AT_ONCE.get(student.device.type, LOGITS_AT_ONCE) // vocabulary)
    heads = (project, teacher_project or project)
    return _ChunkedDivergence.apply(ours, theirs, targets[kept], heads, temperature, plain, chunk, block)


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ours: torch.Tensor,
        theirs: torch.Tensor,
        targets: torch.Tensor,
        heads: tuple[Project, Project],
        temperature: float,
        plain: float,
        chunk: int,
        block: int,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(ours) if wanted else None
        total = torch.zeros((), dtype=torch.float32, device=ours.device)
        for start in range(0, len(targets), chunk):
            part = slice(start, start + chunk)
            with torch.set_grad_enabled(wanted):
                piece = ours[part].detach().requires_grad_(wanted)
                logits = heads[0](piece)
            with torch.no_grad():
                goals = heads[1](theirs[part])
                slope = torch.empty_like(logits) if wanted else None
                for row in range(0, len(logits), block):
                    rows = slice(row, row + block)
                    into = None if slope is None else slope[rows]
                    total += _piece(logits[rows], goals[rows], targets[part][rows], temperature, plain, into)
            if gradient is not None:
                gradient[part] = torch.autograd.grad(logits, piece, slope)[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), *[None] * 7


def _piece(
    logits: torch.Tensor,
    goals: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    plain: float,
    slope: torch.Tensor | None,
) -> torch.Tensor:
    """Loss of N positions; its derivative by the student's logits, (N, V), is written into `slope`.

    d/dz of T^2 KL(q || softmax(z / T)) is T (p - q), and of -log p(label) it is p - onehot.
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
        ours = _log_chances(logits)
        total -= plain * ours.gather(-1, targets[:, None]).sum()
        if slope is not None:
            plainly = ours.exp_()
            plainly[torch.arange(len(targets), device=targets.device), targets] -= 1
            steep = plainly.mul_(plain) if steep is None else steep.add_(plainly, alpha=plain)
    if slope is not None and steep is not None:
        slope.copy_(steep)
    return total


def _log_chances(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    softened = logits if temperature == 1 else logits.float() / temperature
    return torch.log_softmax(softened, -1, dtype=torch.float32)


def state_distance(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over the labelled positions of |s - t|^2 / |t|^2, fp32: each token counts alike, however massive its state.

    Args:
        student, teacher: (B, T, d) hidden states.
        labels: (B, T); see `chunked_divergence`.
    """
    kept = labels[:, 1:] != -100
    ours, theirs = student[:, :-1][kept].float(), teacher[:, :-1][kept].float()
    return ((ours - theirs).square().sum(-1) / theirs.square().sum(-1).clamp_min(1e-12)).sum()
