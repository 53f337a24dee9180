"""The check before a cut: candidate blocks are run on held-out text and compared with the full model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from prune.choosing.cascade import SHARES, Prices, affordable, rung_tokens, survivors
from prune.choosing.settings import CHECKED
from prune.common.intervals import ratio_stderr
from prune.models.batches import plan_batches
from prune.models.loading import decoder_layers
from prune.models.walks.layerwise import tree_of
from prune.models.walks.variants import FULL, Scores, score_variants, walk_tokens
from prune.text.windows import SHORTEST

Layers = tuple[int, ...]


@dataclass(frozen=True)
class Finalist:
    """A candidate that was run on all the text of the check: layers dropped (0-based), and means over its tokens.

    loss: nats a token. kl: KL(full model || cut model), nats a token. kl_stderr: its standard error over windows.
    """

    dropped: Layers
    loss: float
    kl: float
    kl_stderr: float


@dataclass(frozen=True)
class Check:
    """What the check found.

    own: what the criterion had chosen; chosen: the finalist of least KL, which may be the same.
    gain, gain_stderr: KL of `own` less KL of `chosen`, and its standard error over windows (paired); 0 if the same.
    screened: how many candidates were tried. full_loss: the full model's loss on the finalists' text.
    tokens: predicted tokens that the finalists were measured on. text_tokens: tokens of the held-out text.
    passes: what all of it cost, in plain passes of the full model over that text.
    """

    own: Layers
    chosen: Layers
    gain: float
    gain_stderr: float
    finalists: tuple[Finalist, ...]
    screened: int
    full_loss: float
    tokens: int
    text_tokens: int
    passes: float

    def to_json(self) -> dict[str, Any]:
        """The check as it stands in a plan's evidence."""
        finalists = [{**asdict(finalist), "dropped": list(finalist.dropped)} for finalist in self.finalists]
        return {**asdict(self), "own": list(self.own), "chosen": list(self.chosen), "finalists": finalists}


@dataclass(frozen=True)
class Removal:
    """What greedy removal took.

    order: layers (0-based) in the order of their removal. loss: after each, in nats a predicted token.
    tokens: of the windows that were read, the first of each included, which nothing predicts.
    """

    order: tuple[int, ...]
    loss: tuple[float, ...]
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """The removal as it stands in a plan's evidence."""
        return {"order": list(self.order), "loss": list(self.loss), "tokens": self.tokens}


def check_candidates(
    model: Any,
    windows: Sequence[Sequence[int]],
    candidates: Sequence[Layers],
    own: Layers,
    *,
    finalists: int = CHECKED,
    advance: Callable[[float], None] = lambda share: None,
) -> Check:
    """Try `candidates` on ever more text, dropping the worse by KL, and take the finalist of least KL.

    It never costs more than 1.5 plain passes of the full model over `windows`: where a window is too long for what
    is left of them, its end is cut off.

    Args:
        model: as `score_variants` takes it; one that is run from its files reads them three times.
        windows: lists of token ids that the choice has not seen, of 8 tokens or more.
        candidates: sets of layers, the more promising first: where text is short, only so many are tried.
        own: the criterion's own choice; always a finalist.
        finalists: how many end up measured on all text that the bound leaves, at least one.
        advance: called with the share of the budget spent, in [0, 1], in steps.
    """
    layers = len(decoder_layers(tree_of(model)))
    prices = Prices(layers, _head_price(model), sum(map(len, windows)))
    left = [own, *(candidate for candidate in candidates if candidate != own)]
    left = left[: max(affordable(prices, left, SHARES[0]), finalists)]
    left = left[: affordable(prices, left, 1.0, SHORTEST)]  # tiny text cannot bear so many finalists
    screened, used, spent = len(left), 0, 0.0
    batch = walk_tokens(model, 1 + len(left))
    scores: Scores | None = None
    for keep, share in zip((2 * finalists, finalists, finalists), SHARES, strict=True):
        left_over = 1.0 - spent / prices.budget
        most = rung_tokens(prices, left, left_over)
        wanted = most if share == SHARES[-1] else min(most, rung_tokens(prices, left, share))
        text = _take(windows[used:], wanted, most, batch)
        used += len(text)
        if text:
            fresh = score_variants(model, text, [FULL, *map(frozenset, left)], batch_tokens=batch)
            spent += fresh.layer_tokens + prices.head * fresh.head_tokens
            scores = fresh if scores is None else scores.joined(fresh)
        assert scores is not None
        best = survivors(scores.kl.sum(1)[1:].tolist(), keep, left.index(own))
        left = [left[index] for index in best]
        rows = [0, *(index + 1 for index in best)]
        scores = replace(scores, loss=scores.loss[rows], kl=scores.kl[rows])
        advance(share)
    assert scores is not None
    return _result(scores, left, own, screened=screened, prices=prices, spent=spent)


def _result(scores: Scores, left: list[Layers], own: Layers, *, screened: int, prices: Prices, spent: float) -> Check:
    total = float(scores.tokens.sum())
    order = sorted(range(len(left)), key=lambda index: (scores.kl[index + 1].sum(), index))
    kl = scores.kl[1:]
    paired = kl[left.index(own)] - kl[order[0]]
    return Check(
        own=own,
        chosen=left[order[0]],
        gain=float(paired.sum() / total),
        gain_stderr=_stderr(paired, scores.tokens),
        finalists=tuple(
            Finalist(
                left[index],
                float(scores.loss[index + 1].sum() / total),
                float(kl[index].sum() / total),
                _stderr(kl[index], scores.tokens),
            )
            for index in order
        ),
        screened=screened,
        full_loss=float(scores.loss[0].sum() / total),
        tokens=int(total),
        text_tokens=prices.tokens,
        passes=spent / prices.plain,
    )


def _take(windows: Sequence[Sequence[int]], wanted: int, most: int, batch: int) -> list[Sequence[int]]:
    """The first windows that make no more than `wanted` tokens, padding included, in batches of `batch` tokens.

    One at least, if there is one; what it has beyond `most` tokens is cut off, and of fewer than 2 nothing is left.
    """
    if not windows or most < 2:
        return []
    count = 1
    while count < len(windows) and _padded_tokens(windows[: count + 1], batch) <= wanted:
        count += 1
    return list(windows[:count]) if count > 1 else [windows[0][:most]]


def _padded_tokens(windows: Sequence[Sequence[int]], batch: int) -> int:
    lengths = [len(window) for window in windows]
    batches = plan_batches(lengths, batch_size="auto", budget=batch)
    return sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)


def _stderr(sums: np.ndarray, tokens: np.ndarray) -> float:
    """Standard error of sum(sums) / sum(tokens) over windows; 0 for fewer than two, which tell nothing."""
    if len(sums) < 2:
        return 0.0
    residuals = sums - tokens * sums.sum() / tokens.sum()
    return float(ratio_stderr(float((residuals**2).sum()), len(sums), float(tokens.sum())))


def _head_price(model: Any) -> float:
    """The LM head's weights over those of a layer."""
    model = tree_of(model)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in decoder_layers(model)]
    return float(model.get_output_embeddings().weight.numel() * len(sizes) / sum(sizes))


def greedy_removal(
    model: Any,
    windows: Sequence[Sequence[int]],
    n: int,
    *,
    done: Removal | None = None,
    allow_last: bool = False,
    may_go: Callable[[Sequence[int]], bool] = lambda layers: True,
    advance: Callable[[float], None] = lambda steps: None,
) -> Removal:
    """Remove layers one at a time: each time the one without which the loss rises least, the earlier ones gone.

    Every step measures all layers that are left in one shared walk.

    Args:
        model: as `score_variants` takes it; one that is run from its files reads them n times.
        done: removal of fewer layers on these windows, which is carried on.
        may_go: whether layers may be among the n.
        advance: called with 1 after each removal.
    """
    layers = len(decoder_layers(tree_of(model)))
    gone = list(done.order) if done else []
    losses = list(done.loss) if done else []
    for _ in range(len(gone), n):
        candidates = range(layers if allow_last else layers - 1)
        left = [layer for layer in candidates if layer not in gone and may_go([*gone, layer])]
        scores = score_variants(model, windows, [frozenset([*gone, layer]) for layer in left], kl=False)
        totals = scores.loss.sum(1)
        best = int(totals.argmin())
        gone.append(left[best])
        losses.append(float(totals[best] / scores.tokens.sum()))
        advance(1)
    return Removal(tuple(gone), tuple(losses), sum(map(len, windows)))
