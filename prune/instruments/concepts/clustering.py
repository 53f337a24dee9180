"""Clusters of states: K-means of all of them, and Ward's of some, as arXiv 2205.07237 clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
_ROUNDS = 50  # of K-means at most; few states still move by then


def scaled(states: Floats, scale: str) -> Floats:
    """The states, (N, D), as distances are to see them.

    Args:
        scale: `raw` leaves them as they are, `unit` brings each to length 1, `standard` each dimension to mean 0 and
            standard deviation 1. What is constant stays so.
    """
    if scale == "raw":
        return states
    if scale == "standard":
        spread = states.std(0)
        return (states - states.mean(0)) / np.where(spread > 0, spread, 1)
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def top_variance(states: Floats) -> float:
    """The share of the states' variance that lies in the one dimension that has most; 0 where nothing varies."""
    variances = states.astype(np.float64).var(0)
    whole = variances.sum()
    return float(variances.max() / whole) if whole > 0 else 0.0


def k_means(states: Floats, clusters: int, seed: int) -> Ids:
    """The cluster of each state, (N,), by scikit-learn's K-means from one k-means++ start.

    Args:
        states: (N, D), with at least `clusters` different rows, or some clusters stay empty.
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    start = KMeans(clusters, n_init=1, max_iter=_ROUNDS, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(2, user_api="openmp"):  # two partial sums add up in any order
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal states: empty clusters are left out later
        return np.asarray(start.fit_predict(states), dtype=np.int32)


def ward(states: Floats, clusters: int) -> Ids:
    """The cluster of each state, (N,), by Ward's criterion over Euclidean distances.

    It is scikit-learn's `AgglomerativeClustering`, whose tree SciPy makes, but for the distances: these come from
    one product of matrices, which takes a tenth of the time. Holds N^2 numbers.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    centred = (states - states.mean(0)).astype(np.float64)  # small numbers, so that little cancels below
    squares = (centred * centred).sum(1)
    distances = centred @ centred.T
    distances *= -2
    distances += squares[:, None]
    distances += squares
    np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
    tree = linkage(squareform(distances, checks=False), method="ward")
    return np.asarray(cut_tree(tree, n_clusters=clusters)[:, 0], dtype=np.int32)


def agreement(a: Ids, b: Ids) -> float:
    """The adjusted Rand index of two clusterings: 1 if they are the same, about 0 by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))
