"""From a token budget to optimiser steps: pure arithmetic."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from prune.errors import UsageError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True)
class Schedule:
    """How a budget is spent: `steps` optimiser steps of `batch_size * accumulate` rows of `length` tokens."""

    steps: int
    warmup: int
    length: int
    batch_size: int
    accumulate: int

    @property
    def rows(self) -> int:
        return self.steps * self.batch_size * self.accumulate

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.length

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tokens_per_step": self.tokens_per_step, "tokens": self.tokens}


def parse_tokens(text: str | int) -> int:
    """Read a number of tokens such as `60k`, `2M`, `1.5M`, `164000000`.

    Raises:
        UsageError: not such a number, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)([kmb]?)", str(text).strip().lower().replace("_", ""))
    count = round(float(found.group(1)) * _UNITS[found.group(2)]) if found else 0
    if count < 1:
        raise UsageError(f"{text!r} is not a number of tokens; write it as 60k, 2M or 164000000")
    return count


def plan_steps(tokens: int, *, length: int, batch_size: int, accumulate: int) -> Schedule:
    """Spend at most `tokens` in whole steps; warm-up is 100 steps as in arXiv 2403.17887, or 3 % where that is fewer.

    Raises:
        UsageError: a size under 1, or a budget smaller than one step.
    """
    for name, value, least in (("length", length, 8), ("batch-size", batch_size, 1), ("accumulate", accumulate, 1)):
        if value < least:
            raise UsageError(f"--{name} {value} is too small; it is at least {least}")
    step = length * batch_size * accumulate
    steps = tokens // step
    if steps < 1:
        raise UsageError(
            f"--tokens {tokens} is less than one step of {batch_size * accumulate} rows of {length} tokens ({step}); "
            "ask for more tokens, or lower --length, --batch-size or --accumulate"
        )
    warmup = min(100, max(1, round(0.03 * steps))) if steps > 1 else 0
    return Schedule(steps, warmup, length, batch_size, accumulate)
