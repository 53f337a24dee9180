"""Linear CKA between layer inputs: arithmetic alone."""

from __future__ import annotations

import numpy as np


def linear_cka(states: np.ndarray) -> np.ndarray:
    """Debiased linear centred kernel alignment of every two layers (Kornblith et al., arXiv 1905.00414, equation 3).

    The kernel of a layer is that of the dot products between its samples' states, and HSIC its unbiased estimator
    (Song et al., Journal of Machine Learning Research 13, 2012, equation 5): with fewer samples than dimensions the
    plain one tends to 1 for anything.

    Args:
        states: (N, M, D): N samples, one token each, at M depths of the model.

    Returns:
        (M, M) float64, at most 1, symmetric; NaN for fewer than 4 samples, or where states do not vary.
    """
    count, depths, _ = states.shape
    if count < 4:
        return np.full((depths, depths), np.nan)
    rows = np.empty((depths, count * count))
    for depth in range(depths):
        wide = states[:, depth].astype(np.float64)
        wide -= wide.mean(0)  # centring twice changes nothing, and keeps large common parts out of the differences
        kernel = wide @ wide.T
        np.fill_diagonal(kernel, 0.0)
        sums = kernel.sum(0) / (count - 2)
        kernel += kernel.sum() / ((count - 1) * (count - 2)) - sums[:, None] - sums[None, :]
        np.fill_diagonal(kernel, 0.0)
        rows[depth] = kernel.ravel()
    hsic = rows @ rows.T
    scale = np.sqrt(hsic.diagonal())
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(hsic / np.outer(scale, scale), 1.0)
