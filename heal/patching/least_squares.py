"""Least squares from streamed sums: what a closed-form patch solves. Pure arithmetic on tensors.

The state that leaves layer j is `rest + c W h`: h the input of the layer's last projection W, c a constant of the
family, `rest` free of W. To reach a target state y, W has to change by D with `c D h = e`, where e = y - state. So
nothing but h and e is needed, and whatever else flows beside the feed-forward part drops out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

OBJECTIVES = ("capped", "normalised", "cosine")
CAP = 10.0  # typical lengths beyond which a target is shortened
MASSIVE = 5.0  # typical lengths beyond which a state is massive
_ROWS = 4096  # of a Gram matrix that are computed at a time


@dataclass
class Sums:
    """Weighted sums over tokens, in float64 and on one device; F features, D outputs.

    gram: (F, F), sum of w h h'. cross: (D, F), sum of w e h'. energy: sum of w |e|^2. tokens: how many had w > 0.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    energy: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, features: int, outputs: int, *, device: torch.device | str = "cpu") -> Sums:
        gram = torch.zeros(features, features, dtype=torch.float64, device=device)
        return cls(gram, gram.new_zeros(outputs, features))

    def add(self, features: torch.Tensor, errors: torch.Tensor, weights: torch.Tensor) -> None:
        """Add N tokens: features (N, F), errors (N, D), weights (N,), none of them negative.

        Products are taken in float32 (in float64 where the tokens are given so) and summed in float64.
        """
        wide = torch.float64 if features.dtype == torch.float64 else torch.float32
        kept = weights > 0
        root = weights[kept].to(wide).sqrt().unsqueeze(1)
        left, right = features[kept].to(wide) * root, errors[kept].to(wide) * root
        for begin in range(0, left.shape[1], _ROWS):  # no second matrix of that size stands beside the first
            rows = slice(begin, begin + _ROWS)
            self.gram[rows] += left[:, rows].T @ left
        self.cross += right.T @ left
        self.energy += float(right.double().square().sum())
        self.tokens += int(kept.sum())

    def copy(self) -> Sums:
        """The same sums, to be added to."""
        return Sums(self.gram.clone(), self.cross.clone(), self.energy, self.tokens)

    def left_over(self, change: torch.Tensor) -> float:
        """Share of the weighted squares that a change of (D, F) leaves: 1 for none, 0 for a perfect fit."""
        wide = change.double()
        fitted = float((wide @ self.gram * wide).sum() - 2 * (wide * self.cross).sum())
        return 1.0 + fitted / self.energy if self.energy > 0 else 0.0


def solve(sums: Sums, *, ridge: float, consume: bool = False) -> torch.Tensor:
    """The change D, (D, F) in float64, that minimises sum w |D h - e|^2 + r |D|^2; r = ridge * mean of gram's diagonal.

    The ridge draws to no change at all, not to zero weights. Where it is 0 and features depend on one another, the
    smallest such change is returned.

    Args:
        consume: factor `sums.gram` in its own memory; it holds nothing of use afterwards.

    Raises:
        ConsumedError: with `consume`, a gram that has no Cholesky factor; to be solved anew without.
    """
    gram, cross = sums.gram, sums.cross
    scale = float(gram.diagonal().mean())
    if scale <= 0:
        return torch.zeros_like(cross)
    if ridge > 0:
        lifted = gram if consume else gram.clone()
        lifted.diagonal().add_(ridge * scale)
        lower = lifted.mT  # symmetric; and as a factorisation wants it, column by column
        failed = torch.empty((), dtype=torch.int32, device=gram.device)
        torch.linalg.cholesky_ex(lower, out=(lower, failed))
        if not int(failed):
            half = torch.linalg.solve_triangular(lower, cross.mT, upper=False)
            return torch.linalg.solve_triangular(lower.mT, half, upper=True).mT
        if consume:
            raise ConsumedError
        del lifted, lower
    return cross @ torch.linalg.pinv(gram, hermitian=True, rtol=1e-12)


def solve_map(sums: Sums, weight: torch.Tensor, *, ridge: float) -> torch.Tensor:
    """The best change of the form T W, (D, F): a linear map of the projection's output, as in ReplaceMe (2505.02819).

    Args:
        weight: W, (D, F); where a bias is folded, its last column is the bias.
    """
    wide = weight.double()
    # The sums over the output m = W h in the place of h: no second pass over the text is needed.
    projected = Sums(wide @ sums.gram @ wide.T, sums.cross @ wide.T, sums.energy, sums.tokens)
    return solve(projected, ridge=ridge) @ wide


class ConsumedError(ArithmeticError):
    """A gram that was given away for its factor has none."""


def aim(state: torch.Tensor, target: torch.Tensor, objective: str, typical: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What each of N tokens lacks, (N, D) float32, and how much it counts, (N,).

    A few massive tokens (the first of a document above all) have states a hundred times longer than all others, and
    would own a plain sum of squares. The layers above normalise every state, so that an error counts by its share of
    it. Where the dropped layers were those that made such a state, no small change can make it; but what the layers
    above read is its direction, and that a shorter one has too.

    Args:
        state, target: (N, D), the states as they are and as they should be.
        objective: `normalised`: |e|^2 / |y|^2. `capped`: the same, with targets shortened to
            `CAP` typical lengths, or to the length that the state has already where that is more. `cosine`: the same,
            with targets shortened to the state's own length, so that only the direction counts.
        typical: a typical |y|, such as the median over a batch.
    """
    state, target = state.float(), target.float()
    length = torch.linalg.vector_norm(target, dim=1).clamp(min=1e-6 * typical)
    if objective in ("capped", "cosine"):
        own = torch.linalg.vector_norm(state, dim=1).clamp(min=1e-6 * typical)
        room = torch.minimum(own if objective == "cosine" else own.clamp(min=CAP * typical), length)
        target, length = target * (room / length).unsqueeze(1), room
    elif objective != "normalised":
        raise ValueError(f"{objective} is no objective")
    return target - state, 1 / length.square()


def massive(target: torch.Tensor, typical: float) -> torch.Tensor:
    """Which of N tokens have a massive target state, (N,): attention sinks, which all others look at."""
    return torch.linalg.vector_norm(target.float(), dim=1) > MASSIVE * typical
