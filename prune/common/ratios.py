"""The standard error of a ratio of sums, such as a loss per token over windows of unlike lengths."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Values = TypeVar("Values", float, NDArray[np.float64])


def ratio_stderr(squares: Values, count: int, weight: float) -> Values:
    """Standard error of R = sum S_i / sum w_i over `count` >= 2 clusters (Cochran, Sampling Techniques, eq. 6.9).

    Tokens of one cluster are not independent, clusters are. With w_i = 1 it is sd / sqrt(count).

    Args:
        squares: sum of (S_i - R w_i)^2; rounding may leave it a little below 0.
        count: how many clusters there are.
        weight: sum of w_i.
    """
    result: Values = np.sqrt(np.maximum(squares, 0.0) * count / (count - 1)) / weight
    return result
