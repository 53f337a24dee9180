"""What `prune heads` asks, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import Option
from prune.instruments.needles import NEEDLES
from prune.models.precision import HELP as DTYPES


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers of at least 1 from a list such as `350,700,1400`, rising; `none` is the empty list.

    Args:
        option: the option that it was given for, to name in an error.

    Raises:
        UsageError: something else.
    """
    if text == "none":
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) < 10**9 for part in parts):
        raise UsageError(f"{option} {text!r}: use whole numbers of at least 1, such as 5,10,20")
    return tuple(sorted({int(part) for part in parts}))


def spell_numbers(numbers: tuple[int, ...]) -> str:
    """The numbers as a user types them."""
    return ",".join(map(str, numbers)) or "none"


def spread_depths(count: int) -> tuple[float, ...]:
    """Places of the needle, 0 at the beginning of the text and 1 at its end, evenly; the middle if there is but one."""
    return (0.5,) if count == 1 else tuple(place / (count - 1) for place in range(count))


def check_context(limit: int | None, lengths: tuple[int, ...], new_tokens: int, option: str = "--lengths") -> None:
    """See that prompts with their answers fit a model.

    Args:
        limit: tokens that the model takes; None for no bound.
        option: by which the lengths were given, to name in an error.

    Raises:
        UsageError: they do not.
    """
    longest = max(lengths)
    if limit is not None and longest + new_tokens > limit:
        raise UsageError(
            f"{option} {longest}: the model takes {limit} tokens, {new_tokens} of them for the answer; "
            f"use {limit - new_tokens} at most"
        )


@dataclass(frozen=True)
class HeadsSettings(Checked):
    """The trials, and what is taken out.

    Raises:
        UsageError: a setting is out of range.
    """

    field: Annotated[str, Option(wording.FIELD)] = "text"
    lengths: Annotated[
        tuple[int, ...],
        Option("Tokens of a prompt: a list of lengths.", typed=str, parse=partial(parse_numbers, option="--lengths")),
    ] = (1000, 2000, 4000)
    depths: Annotated[int, Option("Places of the needle in the text, from its beginning to its end.")] = 5
    needles: Annotated[int, Option(f"Needles, {len(NEEDLES)} at most.")] = 20
    new_tokens: Annotated[int, Option("Most tokens of an answer, thinking included.")] = 32
    top: Annotated[
        tuple[int, ...],
        Option(
            "How many of the highest heads are taken out, a list; none for no ablation.",
            typed=str,
            parse=partial(parse_numbers, option="--top"),
        ),
    ] = (5, 10, 20)
    by: Annotated[Literal["write", "copy"], Option("The score that says which heads are highest.")] = "write"
    draws: Annotated[int, Option("Draws of as many random heads of the same layers.")] = 10
    chat: Annotated[bool, Option("Ask through the model's chat template, if it has one.")] = True
    seed: Annotated[int, Option("Draws the haystacks and the random heads.")] = 0
    batch_tokens: Annotated[int, Option("Tokens of one batch, padding included.")] = 16384
    device: Annotated[str, Option(wording.DEVICE)] = "auto"
    dtype: Annotated[str, Option(DTYPES)] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lengths:
            raise UsageError("--lengths: give one length at least")
        for option, numbers in (("--lengths", self.lengths), ("--top", self.top)):
            parse_numbers(spell_numbers(numbers), option)
        if not 1 <= self.needles <= len(NEEDLES):
            raise UsageError(f"--needles {self.needles}: use 1 to {len(NEEDLES)}")
        if self.by not in ("write", "copy"):
            raise UsageError(f"--by {self.by} is unknown; use write or copy")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: use 0 or more")
        for name in ("depths", "new_tokens", "draws", "batch_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: use 1 or more")

    @property
    def depth_places(self) -> tuple[float, ...]:
        """Depths from 0 to 1."""
        return spread_depths(self.depths)

    @property
    def ablated_cells(self) -> tuple[tuple[int, float], ...]:
        """Length and depth of the trials that heads are taken out for: one depth for each length, spread inside."""
        places = self.depth_places
        steps = len(self.lengths) + 1
        return tuple(
            (length, places[round((number + 1) * (len(places) - 1) / steps)])
            for number, length in enumerate(self.lengths)
        )
