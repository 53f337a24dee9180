"""Scores of heads, from what they attended to and wrote at the steps of an answer. Pure arithmetic.

Shapes: B trials, H heads (of all layers, one after the other), N trials in all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prune.choosing.heads import RETRIEVAL

ANSWERED = 0.5  # a trial is answered above this share of the answer's words (arXiv 2404.15574)
NEARLY_EVERY = 0.9  # of the contexts

Floats = NDArray[np.float64]


def recall(answer: str, written: str) -> float:
    """ROUGE-1 recall: the share of the answer's words that stand in what was written, each as often as it does."""
    wanted = Counter(_words(answer))
    return sum((wanted & Counter(_words(written))).values()) / max(1, wanted.total())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


class CopiedTokens:
    """Copy scores of one batch: the distinct needle tokens that each head has copied, as a share of all of them.

    A head copies a token at a step where it attends most to a place inside the needle's answer, and the token of that
    place is the one that the model writes (arXiv 2404.15574, section 2).

    Args:
        spans: the tokens of each trial's answer inside its needle.
        heads: H.
    """

    def __init__(self, spans: Sequence[Sequence[int]], heads: int) -> None:
        self._tokens = [sorted(set(span)) for span in spans]
        self._copied = np.zeros((len(spans), heads, max(map(len, self._tokens))), dtype=bool)

    def add(self, written: Sequence[int], hits: NDArray[np.bool_]) -> None:
        """One step.

        Args:
            written: the token that each trial's answer goes on with, (B,).
            hits: whether a head attended most to a place of the needle that holds that token, (B, H).
        """
        for row, token in enumerate(written):
            if hits[row].any():
                self._copied[row, :, self._tokens[row].index(token)] |= hits[row]

    def scores(self) -> Floats:
        """(B, H), from 0 to 1."""
        sizes = np.array([len(tokens) for tokens in self._tokens])
        return np.asarray(self._copied.sum(2) / sizes[:, None], dtype=np.float64)


class WrittenLogits:
    """Write scores of one batch: mean over the answer's steps of what a head adds to the written token's logit.

    What it adds from elsewhere is taken off, scaled to as many places as the needle has (arXiv 2607.01002).
    """

    def __init__(self, trials: int, heads: int) -> None:
        self._sum, self._steps = np.zeros((trials, heads)), np.zeros(trials)

    def add(self, needle: Floats, elsewhere: Floats, share: Floats, counts: NDArray[np.bool_]) -> None:
        """One step.

        Args:
            needle, elsewhere: what each head adds to the logit from places inside and outside the answer, (B, H).
            share: places that the head sees inside the answer, over those that it sees outside, (B, H).
            counts: trials whose answer goes on, (B,).
        """
        self._sum += (needle - elsewhere * share) * counts[:, None]
        self._steps += counts

    def scores(self) -> Floats:
        """(B, H), in logits; 0 for an answer of no token."""
        return np.asarray(self._sum / np.maximum(1, self._steps)[:, None], dtype=np.float64)


def activity(copy: Floats) -> Floats:
    """The share of trials in which a head copies more than a tenth of the needle, (H,), from (N, H)."""
    return np.asarray((copy > RETRIEVAL).mean(0), dtype=np.float64)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's correlation of two scores, ties sharing their ranks; NaN where one of them is constant."""
    return correlation(_ranks(a), _ranks(b))


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's correlation; NaN where one of the two is constant."""
    first, second = a - a.mean(), b - b.mean()
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size > 0 else float("nan")


def _ranks(values: Floats) -> Floats:
    """Mean ranks, from 1."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((ends - counts + 1 + ends) / 2)[places], dtype=np.float64)


def top(scores: Floats, count: int) -> list[int]:
    """The heads of the highest scores, the highest first; of equals the lower number."""
    return [int(head) for head in np.argsort(-scores, kind="stable")[:count]]


def overlap(a: Floats, b: Floats, count: int) -> float:
    """The share of the top heads of `a` that are top heads of `b` too."""
    return len(set(top(a, count)) & set(top(b, count))) / count
