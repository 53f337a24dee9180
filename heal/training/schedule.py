"""From a token budget to optimiser steps: pure arithmetic."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from heal.defaults import Step
from prune.common.errors import UsageError
from prune.common.sizes import counted, spell_size


@dataclass(frozen=True)
class Schedule(Step):
    """How a budget is spent: `steps` optimiser steps of `processes` processes. In `warmup` steps the rate rises."""

    steps: int
    warmup: int
    processes: int = 1

    @property
    def rows_per_step(self) -> int:
        return self.batch_size * self.accumulate * self.processes

    @property
    def rows(self) -> int:
        return self.steps * self.rows_per_step

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.length

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    def to_json(self) -> dict[str, Any]:
        """Without the rate, which stands among the settings."""
        facts = {**asdict(self), "tokens_per_step": self.tokens_per_step, "tokens": self.tokens}
        del facts["learning_rate"]
        return facts


def plan_steps(tokens: int, step: Step, *, processes: int = 1, warmup: str | None = None) -> Schedule:
    """Spend at most `tokens` in whole steps.

    Args:
        processes: how many train together; each does `step`.
        warmup: a number of steps, or a share of them such as `3%`; 100 as in arXiv 2403.17887, or 3 % where that is
            fewer, if None.

    Raises:
        UsageError: a size under 1, a budget smaller than one step, or a warm-up that is neither.
    """
    for name, least in (("length", 8), ("batch_size", 1), ("accumulate", 1)):
        if (value := getattr(step, name)) < least:
            raise UsageError(f"--{name.replace('_', '-')} {value} is too small; it is at least {least}")
    rows = step.batch_size * step.accumulate * processes
    steps = tokens // (step.length * rows)
    if steps < 1:
        raise UsageError(
            f"--tokens {tokens} is less than one step of {rows} rows of {step.length} tokens ({step.length * rows}); "
            "ask for more tokens, or lower --length, --batch-size or --accumulate"
        )
    return Schedule(**asdict(step), steps=steps, warmup=_warmup(warmup, steps), processes=processes)


def schedule_line(
    schedule: Schedule, from_budget: tuple[str, ...], *, free_memory: int | None, checkpointing: bool
) -> str:
    """What a run does, in one line.

    Args:
        from_budget: names of the settings that follow from the token budget.
        free_memory: bytes that rows a pass and `checkpointing` were chosen for; None where they were given.
    """
    rows, processes = schedule.rows_per_step, schedule.processes
    words = (
        f"{counted(schedule.steps, 'step')} of {counted(rows, 'row')} of {schedule.length} tokens"
        f"{f', {processes} processes together' if processes > 1 else ''}; rate {schedule.learning_rate:g}, "
        f"reached after {counted(schedule.warmup, 'step')}"
    )
    if free_memory is not None:
        a_pass = f"{counted(schedule.batch_size, 'row')} a pass"
        words += f"; {a_pass}, {'with' if checkpointing else 'without'} checkpointing, in {spell_size(free_memory)}"
    if not from_budget:
        return words
    names = [f"--{name.replace('_', '-')}" for name in from_budget]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{words} ({listed} follow{'s' if len(names) == 1 else ''} from --tokens)"


def _warmup(written: str | None, steps: int) -> int:
    if written is None:
        return min(100, max(1, round(0.03 * steps))) if steps > 1 else 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)( ?%)?", written.strip())
    count = float(match.group(1)) * (steps / 100 if match.group(2) else 1) if match else -1.0
    if not 0 <= count < steps or (match and not match.group(2) and "." in match.group(1)):
        raise UsageError(
            f"--warmup {written} is not a number of steps below all {steps}, or a share of them such as 3%"
        )
    return round(count)
