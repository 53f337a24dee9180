"""Angular distances between layer inputs, and their mean and standard error: arithmetic alone.

With L layers, x[l] is the input of layer l and x[L] the last layer's output before the final norm. A pair
(l, n) stands for the block l .. l+n-1; the P = L(L+1)/2 pairs are ordered by n, then by l.

All of it is float64. One Gram matrix holds every pair's cosine, and near cos = 1, where the answer lies, arccos
turns a rounding error e of the cosine into an angle of sqrt(2e): 5e-4 rad in fp32, 2e-8 rad in float64.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from prune.common.intervals import ratio_stderr

# 1 - cos at or below this is an angle of 0. The sums of a float64 Gram matrix round by about this much, and it is an
# angle of 1.7e-7 rad, which fp32 states cannot express: so vectors that are equal have a distance of exactly 0.
_SAME = 2.0**-46


@lru_cache(maxsize=8)
def pairs(layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (l, l+n) of all pairs, each of shape (P,): n = 1 .. L, and for each n, l = 0 .. L-n."""
    lower = [start for n in range(1, layers + 1) for start in range(layers - n + 1)]
    upper = [start + n for n in range(1, layers + 1) for start in range(layers - n + 1)]
    return torch.tensor(lower), torch.tensor(upper)


def rows(flat: np.ndarray, layers: int) -> list[np.ndarray]:
    """Split values of shape (P,) into L rows: row n-1 holds those of (l, n) for l = 0 .. L-n."""
    return np.split(np.asarray(flat), np.cumsum(np.arange(layers, 1, -1)))


def angular_distances(states: torch.Tensor) -> torch.Tensor:
    """d(l, n) = arccos(cos(x[l], x[l+n])) / pi for every pair (arXiv 2403.17887, equation 7).

    Args:
        states: x[0] .. x[L] of some tokens, shape (..., L+1, D), of any float dtype; cast up before any product.

    Returns:
        float64 of shape (..., P), each in [0, 1]; exactly 0 for equal vectors; NaN for a zero vector.
    """
    wide = states.double()
    gram = wide @ wide.mT  # (..., L+1, L+1)
    norm = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    gram = (gram / norm[..., :, None]).div_(norm[..., None, :])
    size = states.shape[-2]
    lower, upper = pairs(size - 1)
    above = (lower * size + upper).to(states.device)
    cosine = gram.flatten(-2).index_select(-1, above)  # one flat index: twice as fast as a pair of them
    angle = cosine.clamp(-1.0, 1.0).arccos_().div_(math.pi)
    return angle.masked_fill_(1.0 - cosine <= _SAME, 0.0)


class MeanSums:
    """Sums over samples from which a mean over tokens and its standard error follow; two of them add up.

    Sample i brings a total S_i (shape (P,)) over w_i tokens. The mean is sum S_i / sum w_i, and its standard error
    that of a ratio over clusters.

    Attributes:
        samples: how many there were.
        sums: (3, P + 1), of z, z^2 and z w over the samples, where z is S_i with w_i behind it.
    """

    def __init__(self, size: int) -> None:
        self.size, self.samples = size, 0
        self.sums = np.zeros((3, size + 1))

    def add(self, totals: np.ndarray, weights: np.ndarray) -> None:
        """Take in samples: `totals` (samples, P) summed over each one's tokens, `weights` (samples,) tokens."""
        weights = weights[:, None]
        both = np.hstack([totals, weights])
        self.samples += len(both)
        self.sums += np.stack([both.sum(0), (both**2).sum(0), (both * weights).sum(0)])

    def merge(self, other: MeanSums) -> None:
        """Add the sums of other samples, as another process or an earlier run has them."""
        self.samples += other.samples
        self.sums += other.sums

    def mean(self) -> np.ndarray:
        """Mean over all tokens, shape (P,)."""
        return self.sums[0, :-1] / self.sums[0, -1]

    def stderr(self) -> np.ndarray:
        """Standard error of the mean over samples, shape (P,); NaN for fewer than two samples."""
        if self.samples < 2:
            return np.full(self.size, np.nan)
        mean = self.mean()
        _, total_square, total_weight = self.sums[:, :-1]
        weight, weight_square, _ = self.sums[:, -1]
        squares = total_square - 2.0 * mean * total_weight + mean**2 * weight_square
        return ratio_stderr(squares, self.samples, weight)
