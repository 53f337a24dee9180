"""Fast and slow thinking from 2x2 counts: what a model knows, and what reasoning adds. Pure arithmetic.

After Yang, Gao, Wu, "Decoupling Knowledge and Reasoning" (arXiv 2507.18178): the same questions are answered at once
(fast) and after a chain of thought (slow). Everything follows from how many were right in both, in one or in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.billing.statistics import Interval, accuracy_difference, accuracy_of


@dataclass(frozen=True)
class ThinkingCounts:
    """The 2x2 table of n questions: right in both modes, in one alone, in none."""

    both_right: int
    fast_only: int
    slow_only: int
    both_wrong: int

    def __post_init__(self) -> None:
        if min(self.both_right, self.fast_only, self.slow_only, self.both_wrong) < 0:
            raise ValueError("counts cannot be negative")

    @property
    def n(self) -> int:
        """Questions."""
        return self.both_right + self.fast_only + self.slow_only + self.both_wrong


@dataclass(frozen=True)
class ThinkingScores:
    """What the counts say, each with its 95 % interval. Shares of 1.

    `delta` = `a_slow` - `a_fast` = `delta_c` - `delta_o` (eq. 5 and 8). The rates have another denominator each:
    `r_c` is the share of fast wrong answers that slow thinking corrects, None where no fast answer was wrong;
    `r_o` the share of fast right answers that it spoils, None where none was right (eq. 9 and 10).
    """

    a_fast: Interval
    a_slow: Interval
    delta: Interval
    delta_c: Interval
    delta_o: Interval
    r_c: Interval | None
    r_o: Interval | None


def count_pairs(fast: Sequence[bool], slow: Sequence[bool]) -> ThinkingCounts:
    """The 2x2 table of verdicts on the same questions; `fast` and `slow` have shape (n,), in the same order."""
    pairs = list(zip(fast, slow, strict=True))
    both, only_fast = sum(f and s for f, s in pairs), sum(f and not s for f, s in pairs)
    only_slow = sum(s and not f for f, s in pairs)
    return ThinkingCounts(both, only_fast, only_slow, len(pairs) - both - only_fast - only_slow)


def thinking_scores(fast: Sequence[bool], slow: Sequence[bool], units: Sequence[str]) -> ThinkingScores:
    """Accuracies, reasoning gain and its two parts, correction rate and overthinking rate.

    Intervals are Wilson's for every share and rate, and for `delta`, a difference of two accuracies on the same
    questions, that of Bonett and Price; by clusters where questions share a passage. See `eval.billing.statistics`.

    Args:
        fast, slow: shape (n,), n >= 1: the verdicts, in the same order of questions.
        units: shape (n,): what is independent, the same for questions of one passage.

    Raises:
        ValueError: no question at all.
    """
    answers = list(zip(fast, slow, units, strict=True))

    def share(hits: list[tuple[bool, str]]) -> Interval:
        return accuracy_of([hit for hit, _ in hits], [unit for _, unit in hits])

    corrected = [(s, unit) for f, s, unit in answers if not f]
    spoiled = [(not s, unit) for f, s, unit in answers if f]
    return ThinkingScores(
        a_fast=accuracy_of(fast, units),
        a_slow=accuracy_of(slow, units),
        delta=accuracy_difference(fast, slow, units),
        delta_c=share([(s and not f, unit) for f, s, unit in answers]),
        delta_o=share([(f and not s, unit) for f, s, unit in answers]),
        r_c=share(corrected) if corrected else None,
        r_o=share(spoiled) if spoiled else None,
    )
