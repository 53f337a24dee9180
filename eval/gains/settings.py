"""How what a cut gives is measured: the options of `evaluate compare` that say so."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated

from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen.options import Option

_gains = partial(Option, panel="Gains")
MOST_ROUNDS = 99
_SIZES = ("context", "new_tokens", "sequences", "rounds")


@dataclass(frozen=True)
class GainsSettings(Checked):
    """Whether bytes, memory and speed of the models are measured, on prompts of which size, how often."""

    gains: Annotated[bool, _gains("Measure what the cut gives: bytes, KV cache, memory, tokens a second.")] = True
    context: Annotated[int | None, _gains("Tokens of a prompt.", flag="--gains-context", shown="128; on CUDA 2048")] = (
        None
    )
    new_tokens: Annotated[
        int | None, _gains("Tokens written after it.", flag="--gains-new-tokens", shown="32; on CUDA 128")
    ] = None
    sequences: Annotated[int, _gains("Prompts at once.", flag="--gains-sequences")] = 1
    rounds: Annotated[int, _gains("How often each model has its turn.", flag="--gains-rounds")] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {"--gains-context": self.context, "--gains-new-tokens": self.new_tokens}
        counts |= {"--gains-sequences": self.sequences, "--gains-rounds": self.rounds}
        for option, value in counts.items():
            if value is not None and value < 1:
                raise UsageError(f"{option} {value}: use 1 or more")
        if self.rounds > MOST_ROUNDS:
            raise UsageError(f"--gains-rounds {self.rounds}: use {MOST_ROUNDS} at most")
        if not self.gains and (sized := self.changed[1:]):
            raise UsageError(f"{sized[0]} says how gains are measured; leave out --no-gains")

    @property
    def changed(self) -> tuple[str, ...]:
        """The options that are not as they are where nothing is given."""
        values = {"gains": "--no-gains", **{name: f"--gains-{name.replace('_', '-')}" for name in _SIZES}}
        usual = {field.name: field.default for field in fields(self)}
        return tuple(option for name, option in values.items() if getattr(self, name) != usual[name])
