"""The states that flow between a decoder's layers: taken by hooks, reduced as they arrive, never kept past a batch.

x[l] is the input of layer l; x[L] is the output of the last layer before the final norm, which transformers'
`hidden_states[-1]` is not. The LM head is not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from prune.common.errors import RegrowthError
from prune.scanning.angles import angular_distances

_BLOCK_VALUES = 1 << 19  # values of one block of the all-token reduction: 4 MiB in float64 stay in the cache


@dataclass(frozen=True)
class BatchResult:
    """What a batch leaves behind.

    totals: (B, P) float64, angular distances summed over each sample's counted tokens.
    weights: (B,) float64, those tokens: 1 in `last` mode, all non-padding tokens in `all` mode.
    influence: (L,) float64, 1 - cos(x[l], x[l+1]) summed over all non-padding tokens.
    magnitude: (L,) float64, |x[l+1] - x[l]| / |x[l+1]| summed over all non-padding tokens.
    token_count: non-padding tokens.
    last: (B, L+1, D) float32, the states at each sample's last token.
    """

    totals: np.ndarray
    weights: np.ndarray
    influence: np.ndarray
    magnitude: np.ndarray
    token_count: int
    last: np.ndarray


class BatchStates:
    """Takes x[0] .. x[L] of one batch in turn and keeps what the answer needs.

    In `last` mode that is each sample's last non-padding vector; in `all` mode the non-padding states of this batch.
    Padding may stand on either side.
    """

    def __init__(self, mask: torch.Tensor, samples: Sequence[int], *, layers: int, tokens: str) -> None:
        """
        Args:
            mask: (B, T), true where a token is not padding; at least one in each row.
            samples: the samples' numbers in drawn order, for error messages.
            layers: L.
            tokens: "last" or "all".
        """
        self._shape, self._samples, self._layers = mask.shape, samples, layers
        counts = mask.sum(1)
        self._counts = counts.cpu()
        self._real = mask.flatten().nonzero().squeeze(1)  # places of the real tokens in the flattened batch
        self._last = counts.cumsum(0) - 1  # each sample's last one among them, whatever side the padding is on
        self._every = tokens == "all"
        self._kept: list[torch.Tensor] = []
        self._squares: list[torch.Tensor] = []
        self._dots: list[torch.Tensor] = []
        self._previous: torch.Tensor | None = None

    def receive(self, index: int, hidden: torch.Tensor) -> None:
        """Take x[index], shape (B, T, D), where they come in the order 0 .. L."""
        self._previous = self.take(index, hidden, self._previous)

    def take(self, index: int, hidden: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """Take x[index], shape (B, T, D), and x[index - 1] as `real` gives it (None for x[0]).

        Returns:
            `real` of x[index].
        """
        if index != len(self._squares):
            raise RegrowthError(f"layer states came out of order (x[{index}] after x[{len(self._squares) - 1}])")
        if hidden.shape[:2] != self._shape or hidden.dim() != 3:
            expected = f"({self._shape[0]}, {self._shape[1]}, width)"
            raise RegrowthError(f"x[{index}] has shape {tuple(hidden.shape)}, not {expected}: no plain decoder layer")
        state = self._real_tokens(hidden)
        self._kept.append(state if self._every else state.index_select(0, self._last.to(state.device)))
        wide = state.float()
        self._squares.append(torch.linalg.vecdot(wide, wide))
        if before is not None:
            self._dots.append(torch.linalg.vecdot(before.to(wide.device), wide))
        return wide

    def real(self, hidden: torch.Tensor) -> torch.Tensor:
        """The states of non-padding tokens, (N, D) in float32: products of bf16 are noise, those of fp16 overflow."""
        return self._real_tokens(hidden).float()

    def _real_tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.flatten(0, 1).index_select(0, self._real.to(hidden.device))  # a copy: layers may write in place

    def result(self) -> BatchResult:
        """Reduce what was taken.

        Raises:
            RegrowthError: a state is missing, or is NaN, infinite or zero (names layer and sample).
        """
        self._previous = None
        if len(self._squares) != self._layers + 1:
            raise RegrowthError(f"the decoder ran {len(self._squares) - 1} of its {self._layers} layers")
        squares = torch.stack([s.cpu() for s in self._squares]).double()  # (L+1, N)
        self._check(squares)
        dots = torch.stack([d.cpu() for d in self._dots]).double()  # (L, N)
        norm = squares.sqrt()
        cosine = (dots / (norm[:-1] * norm[1:])).clamp(-1.0, 1.0)
        change = (squares[:-1] + squares[1:] - 2.0 * dots).clamp(min=0.0).sqrt() / norm[1:]
        owner = torch.arange(len(self._counts)).repeat_interleave(self._counts)
        ends = [s.index_select(0, self._last.to(s.device)) for s in self._kept] if self._every else self._kept
        last = _side_by_side(ends)
        totals = self._all_tokens(owner) if self._every else angular_distances(last).cpu()
        weights = self._counts.double() if self._every else torch.ones(len(self._counts), dtype=torch.float64)
        return BatchResult(
            totals.numpy(),
            weights.numpy(),
            (1.0 - cosine).sum(1).numpy(),
            change.sum(1).numpy(),
            len(owner),
            last.float().cpu().numpy(),
        )

    def _all_tokens(self, owner: torch.Tensor) -> torch.Tensor:
        """Distances summed over each sample's tokens, (B, P), by blocks of tokens that fit the processor's cache."""
        pairs = self._layers * (self._layers + 1) // 2
        totals = torch.zeros(len(self._counts), pairs, dtype=torch.float64)
        width = self._kept[0].shape[1]
        step = max(1, _BLOCK_VALUES // ((self._layers + 1) * width))
        for begin in range(0, len(owner), step):
            block = _side_by_side([state[begin : begin + step] for state in self._kept])
            totals.index_add_(0, owner[begin : begin + step], angular_distances(block).cpu())
        return totals

    def _check(self, squares: torch.Tensor) -> None:
        bad = ~squares.isfinite() | (squares == 0)
        if not bad.any():
            return
        layer = int(bad.any(1).nonzero()[0, 0])
        token = int(bad[layer].nonzero()[0, 0])
        owner = torch.arange(len(self._counts)).repeat_interleave(self._counts)
        where = f"the input of layer {layer}" if layer < self._layers else f"the output of layer {layer - 1}"
        what = "all zeros, which has no angle" if squares[layer, token] == 0 else "not finite (NaN or infinite)"
        raise RegrowthError(
            f"{where} is {what}, in sample {self._samples[int(owner[token])]} (0-based, in drawn order); "
            "try --dtype float32 or bfloat16, or look at the model's weights"
        )


def _side_by_side(states: list[torch.Tensor]) -> torch.Tensor:
    """x[0] .. x[L], each (N, D) and maybe on several devices, as (N, L+1, D) where the device has float64."""
    device = states[0].device if states[0].device.type in ("cpu", "cuda") else torch.device("cpu")
    return torch.stack([state.to(device) for state in states], dim=1)
