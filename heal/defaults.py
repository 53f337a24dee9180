"""What follows from a token budget where it is not given: rows, their length, and the rate. Pure arithmetic.

An adapter learns by steps. So a small budget goes into many small steps at a high rate: some 200 of them from 50k
tokens on. A large budget goes into larger steps, up to those of arXiv 2403.17887: 5,000 of 16 rows of 2048 tokens at a
rate of 3e-4, which is 164M tokens. In between, the tokens of a step double with every half decade of the budget.
bench/README.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from heal.settings import AUTO, Settings
from prune.common.errors import UsageError

FROM_BUDGET = ("length", "batch_size", "accumulate", "learning_rate", "warmup")  # the last by `plan_steps`
HELD_OUT_TOKENS = 16_000  # measured of each held-out text; fewer where the budget is small
PASS_TOKENS = 2048  # tokens of a forward pass: what a step has more is accumulated


@dataclass(frozen=True)
class Step:
    """What a process does for one optimiser step: `accumulate` passes of `batch_size` rows of `length` tokens."""

    length: int
    batch_size: int
    accumulate: int
    learning_rate: float


@dataclass(frozen=True)
class Rung:
    """The defaults of budgets from `tokens` on: steps of `rows` rows, all processes together, of `length` tokens."""

    tokens: int
    rows: int
    length: int
    learning_rate: float


LADDER = (
    Rung(0, 1, 256, 1e-3),
    Rung(100_000, 2, 256, 1e-3),
    Rung(300_000, 4, 256, 1e-3),
    Rung(1_000_000, 4, 512, 5e-4),
    Rung(3_000_000, 8, 512, 5e-4),
    Rung(10_000_000, 8, 1024, 5e-4),
    Rung(30_000_000, 16, 1024, 3e-4),
    Rung(100_000_000, 16, 2048, 3e-4),
)


def settle(settings: Settings, *, tokens: int, processes: int = 1, longest: int | None = None) -> Step:
    """The step that a budget of `tokens` settles; what the settings give stays as it is.

    Rows are counted so that a step has the tokens of the budget's rung: longer rows are fewer, and one is the least.

    Args:
        settings: rows a pass that are `auto` are settled as if they were not given: the rows of a step are then right.
        processes: how many train together, and share the rows of a step.
        longest: tokens that the model can read; no row becomes longer unless asked for.

    Raises:
        UsageError: `auto` rows a pass with a given number of passes.
    """
    usual = next(rung for rung in reversed(LADDER) if rung.tokens <= tokens)
    length = settings.length
    if length is None:
        length = usual.length if longest is None else min(usual.length, longest)
    rows = max(1, usual.rows * usual.length // (max(1, length) * processes))
    batch, accumulate = settings.batch_size, settings.accumulate
    if batch == AUTO and accumulate is not None:
        raise UsageError("--batch-size auto settles --accumulate too, so that a step keeps its rows; give one of them")
    if not isinstance(batch, int):
        most = max(1, PASS_TOKENS // max(1, length))
        batch = max(1, min(most, rows if accumulate is None else rows // max(1, accumulate)))
    if accumulate is None:
        accumulate = max(1, rows // max(1, batch))
    rate = usual.learning_rate if settings.learning_rate is None else settings.learning_rate
    return Step(length, batch, accumulate, rate)


def measured_tokens(tokens: int) -> int:
    """Held-out tokens that a run of so many tokens measures, some eleven times: a tenth of them, 2,000 to 16,000."""
    return max(2_000, min(HELD_OUT_TOKENS, tokens // 10))


def left_open(settings: Settings) -> tuple[str, ...]:
    """The settings that follow from the budget because they were not given.

    Passes a step are not among them where rows a pass are chosen for the memory.
    """
    chosen = ("accumulate",) if settings.batch_size == AUTO else ()
    return tuple(name for name in FROM_BUDGET if getattr(settings, name) is None and name not in chosen)
