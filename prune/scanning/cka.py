"""Linear CKA between states of the same samples: arithmetic alone.

The kernel is that of the dot products between the samples' states. HSIC is its unbiased estimator (Song et al., Journal
of Machine Learning Research 13, 2012, equation 5; in CKA: Nguyen et al., arXiv 2010.15327): with fewer samples than
dimensions the plain one tends to 1 for anything.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEAST = 4  # samples; the unbiased estimator needs them
_VARIES = 1e-10  # share of the states' squared size; what varies less is rounding


def linear_cka(states: np.ndarray) -> np.ndarray:
    """Debiased linear centred kernel alignment of every two layers (Kornblith et al., arXiv 1905.00414, equation 3).

    Args:
        states: (N, M, D): N samples, one token each, at M depths of the model.

    Returns:
        (M, M) float64, at most 1, symmetric; NaN for fewer than 4 samples, or where states do not vary.
    """
    count, depths, _ = states.shape
    if count < LEAST:
        return np.full((depths, depths), np.nan)
    rows = np.empty((depths, count * count))
    for depth in range(depths):
        kernel = _kernel(states[:, depth])
        np.fill_diagonal(kernel, 0.0)
        sums = kernel.sum(0) / (count - 2)
        kernel += kernel.sum() / ((count - 1) * (count - 2)) - sums[:, None] - sums[None, :]
        np.fill_diagonal(kernel, 0.0)
        rows[depth] = kernel.ravel()
    hsic = rows @ rows.T
    scale = np.sqrt(hsic.diagonal())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(hsic / np.outer(scale, scale), 1.0)


def paired_cka(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Debiased linear CKA of two states of each sample, over several weightings of the samples.

    With weights of 1 it is `linear_cka` of the two. With the counts of a bootstrap draw a sample that was drawn twice
    is never paired with itself, which would be the bias again: HSIC is a weighted mean over unlike samples.

    Args:
        first, second: (N, D) and (N, E), row i of both of the same sample.
        weights: (R, N), none negative.

    Returns:
        (R,) float64, at most 1; NaN for fewer than 4 samples of some weight, or where a side does not vary.
    """
    whole = np.full(len(weights), np.nan)
    if len(first) < LEAST or not (_varies(first) and _varies(second)):
        return whole
    one, two = _kernel(first), _kernel(second)
    for kernel in (one, two):
        np.fill_diagonal(kernel, 0.0)
    enough = (weights > 0).sum(1) >= LEAST
    w = weights[enough].astype(np.float64)
    sums = _Sums.of(one, w), _Sums.of(two, w)
    cross = _hsic(one * two, *sums, w)
    sizes = [_hsic(kernel * kernel, of, of, w) for kernel, of in zip((one, two), sums, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):  # a size below 0 is noise, and its root NaN
        whole[enough] = np.minimum(cross / (np.sqrt(sizes[0]) * np.sqrt(sizes[1])), 1.0)
    return whole


def plain_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Plain (biased) linear CKA of two states of each sample, (N, D) and (N, E); NaN where a side does not vary."""
    if not (_varies(first) and _varies(second)):
        return float("nan")
    one, two = _kernel(first), _kernel(second)
    return float((one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum()))


def _kernel(states: np.ndarray) -> np.ndarray:
    """(N, N) float64: dot products of (N, D) centred states, which keeps large common parts out of the differences."""
    wide = states.astype(np.float64)
    wide -= wide.mean(0)
    return np.asarray(wide @ wide.T)


def _varies(states: np.ndarray) -> bool:
    wide = states.astype(np.float64)
    return bool(((wide - wide.mean(0)) ** 2).sum() > _VARIES * (wide**2).sum())


class _Sums(NamedTuple):
    """Weighted sums of a kernel's rows, (R, N): over w, and over w squared."""

    plain: np.ndarray
    squared: np.ndarray

    @classmethod
    def of(cls, kernel: np.ndarray, w: np.ndarray) -> _Sums:
        return cls(w @ kernel, (w * w) @ kernel)


def _hsic(product: np.ndarray, one: _Sums, two: _Sums, w: np.ndarray) -> np.ndarray:
    """Unbiased HSIC over R weightings, shape (R,).

    It is the mean of K_ij L_ij + K_ij L_pq - 2 K_ij L_ip over all i, j, p, q that differ, each with the weight
    w_i w_j w_p w_q; so nothing that is constant along a kernel's rows counts.

    Args:
        product: (N, N), K * L without its diagonal. one, two: of K and L. w: (R, N).
    """
    w2, w3 = w * w, w**3
    by_w, by_w2, by_w3 = w @ product, w2 @ product, w3 @ product
    p1, p2, p3, p4 = w.sum(1), w2.sum(1), w3.sum(1), (w2 * w2).sum(1)
    pairs = (p1**2 - p2) * (w * by_w).sum(1) + (4 * w3 * by_w + 2 * w2 * by_w2).sum(1) - 4 * p1 * (w2 * by_w).sum(1)
    unlike = one.plain * two.plain - by_w2  # sums over j and p that differ, for each i
    crossed = one.squared * two.plain + one.plain * two.squared - 2 * by_w3
    triples = p1 * (w * unlike).sum(1) - (w2 * unlike).sum(1) - (w * crossed).sum(1)
    fours = (w * one.plain).sum(1) * (w * two.plain).sum(1) - (4 * w2 * unlike + 2 * w2 * by_w2).sum(1)
    weight = p1**4 - 6 * p1**2 * p2 + 3 * p2**2 + 8 * p1 * p3 - 6 * p4
    return np.asarray((pairs + fours - 2 * triples) / weight)
