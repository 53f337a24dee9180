"""Long vectors projected to few dimensions at random, so that inner products stay what they are on the mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class CountSketch:
    """A count sketch: each weight is added to one dimension or taken from it, both drawn by the seed.

    Inner products of sketches are unbiased, with a variance of about (|x|^2 |y|^2 + <x, y>^2) / k (Charikar, Chen and
    Farach-Colton, Finding Frequent Items in Data Streams, 2002; Weinberger et al., arXiv 0902.2206). So a cosine is off
    by some 1 / sqrt(k). It takes one pass over the weights, and four bytes for each, where a dense projection would
    take k passes.

    Args:
        sizes: numbers of weights of the vector's parts, in their order.
        dimensions: k.
        seed: same seed, same projection, on every device.
        device: where the parts are.
    """

    def __init__(self, sizes: Sequence[int], dimensions: int, *, seed: int, device: torch.device | str = "cpu") -> None:
        draw = torch.Generator().manual_seed(seed)
        # Twice as many places: those of the second half are subtracted, which saves the signs.
        self._places = [
            torch.randint(2 * dimensions, (size,), generator=draw, dtype=torch.int32).to(device) for size in sizes
        ]
        self._dimensions, self._device = dimensions, device

    def __call__(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The sketch of a vector that is given in its parts, of any shape: (k,), fp32."""
        sums = torch.zeros(2 * self._dimensions, device=self._device)
        for places, part in zip(self._places, parts, strict=True):
            sums.index_add_(0, places, part.reshape(-1).float())
        return sums[: self._dimensions] - sums[self._dimensions :]
