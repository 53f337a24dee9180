"""How the layers to drop are chosen and timed: settings, which are also options of `prune cut` and `prune time`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from prune.choosing.criteria import CRITERIA, CriterionName
from prune.common.checked import Checked
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import Option
from prune.common.sizes import parse_size, parse_tokens
from prune.models.precision import HELP as DTYPES
from prune.scanning.settings import ScanSettings

if TYPE_CHECKING:
    from prune.models.memory.needs import Load

CHECKED = 4  # candidates that are checked by default
FEWEST_TOKENS = 512  # of held-out text for a check; fewer tell nothing
BITS = (16, 8, 4)  # of weights; 16: as stored
USUAL_CONTEXT = 4000  # tokens; of a model that reads fewer, those
Part = Literal["prefill", "decode"]
_PANEL = "A target in the place of --n"


def parse_weights(text: str) -> dict[str, float]:
    """`medical=1,math=2` as {domain: weight}; which weights there may be, `CutSettings` says.

    Raises:
        UsageError: not of that form.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not name or not equals or not math.isfinite(weight) or name in weights:
            raise UsageError(f"--weigh {text!r}: write medical=1,math=2, each domain once")
        weights[name] = weight
    return weights


def _check_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that cannot be, however they were given."""
    written = ",".join(f"{name}={weight:g}" for name, weight in weights.items())
    if any(weight < 0 for weight in weights.values()):
        raise UsageError(f"--weigh {written}: no weight may be below 0")
    if not any(weights.values()):
        raise UsageError(f"--weigh {written}: at least one weight has to be above 0")


@dataclass(frozen=True)
class CheckSettings(Checked):
    """How a choice is checked on text that it has not seen.

    Raises:
        UsageError: a negative number of candidates, or too little text.
    """

    candidates: Annotated[
        int | None,
        Option(
            "How many candidates to check on held-out text; that of least KL to the full model is taken. 0: no check.",
            flag="--check",
            shown="4 for angular, else 0",
        ),
    ] = None
    tokens: Annotated[
        int,
        Option(
            "Tokens of held-out text for the check, which costs at most 1.5 passes over them.", flag="--check-tokens"
        ),
    ] = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates is not None and self.candidates < 0:
            raise UsageError(f"--check {self.candidates}: use 0 for none, or how many candidates to check")
        if self.tokens < FEWEST_TOKENS:
            raise UsageError(f"--check-tokens {self.tokens}: fewer than {FEWEST_TOKENS} tell nothing")


@dataclass(frozen=True)
class CutSettings(Checked):
    """How the layers to drop are chosen.

    `scanning` holds for the scan that is made where the criterion needs one and none is given; its `field` and `seed`
    are those of the check's text too.

    Raises:
        UsageError: an unknown criterion, costs that it needs or has no use for, or no share to protect, or of nothing.
    """

    criterion: Annotated[CriterionName | None, Option("How the layers are chosen.", shown="angular")] = None
    allow_last: Annotated[
        bool, Option("Let the last layer go too; a model rarely survives that.", flag="--allow-last")
    ] = False
    costs: Annotated[Path | None, Option("costs.json of `evaluate sweep`, for --criterion domain.")] = None
    weigh: Annotated[
        Mapping[str, float] | None,
        Option(
            "With --costs: weights of the domains, medical=1,math=2.",
            typed=str | None,
            parse=parse_weights,
            shown="all alike",
        ),
    ] = None
    heads: Annotated[
        Path | None, Option("heads.json of this model: the plan says how much of its scores the cut drops.")
    ] = None
    protect_heads: Annotated[
        float | None,
        Option("With --heads: keep at least this share of the copy score, such as 0.8.", shown=False),
    ] = None
    revision: Annotated[str | None, Option(wording.REVISION)] = None
    trust_remote_code: Annotated[
        bool,
        Option("Run the model's own Python to scan it, and copy it into the pruned model.", flag="--trust-remote-code"),
    ] = False
    check: CheckSettings = field(default_factory=CheckSettings)
    scanning: ScanSettings = field(default_factory=ScanSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.criterion_name
        if name not in CRITERIA:
            raise UsageError(f"--criterion {name} is unknown; use {', '.join(CRITERIA)}")
        needs_costs = CRITERIA[name].needs == "costs"
        if needs_costs and self.costs is None:
            raise UsageError(f"--criterion {name} goes by measured costs: give them with --costs costs.json")
        if not needs_costs and (self.costs is not None or self.weigh is not None):
            raise UsageError(f"{'--costs' if self.costs is not None else '--weigh'} belongs to --criterion domain")
        if self.weigh is not None:
            _check_weights(self.weigh)
        if self.protect_heads is not None:
            if self.heads is None:
                raise UsageError("--protect-heads goes by measured heads: give them with --heads heads.json")
            if not 0 < self.protect_heads <= 1:
                raise UsageError(
                    f"--protect-heads {self.protect_heads:g}: use a share above 0 and up to 1, such as 0.8"
                )

    @property
    def criterion_name(self) -> str:
        return self.criterion or "angular"

    @property
    def candidates(self) -> int:
        """How many candidates are checked; 0 for none."""
        if self.check.candidates is not None:
            return self.check.candidates
        return CHECKED if CRITERIA[self.criterion_name].checked else 0

    @property
    def runs_model(self) -> bool:
        """Whether the model has to be run to choose, a scan apart."""
        return self.candidates > 0 or CRITERIA[self.criterion_name].needs == "model"


def parse_target(text: str) -> int:
    """`8GiB` in bytes."""
    return parse_size(text, option="--fit")


def parse_speed(text: str) -> float:
    """`1.3x` or `1.3` as a factor above 1.

    Raises:
        UsageError: not of that form.
    """
    try:
        factor = float(text.lower().removesuffix("x"))
    except ValueError:
        factor = 0.0
    _check_speed(factor, text)
    return factor


def _check_speed(factor: float, written: object) -> None:
    if not 1 < factor < 1000:
        raise UsageError(f"--speed {written}: write a factor above 1, such as 1.3x")


@dataclass(frozen=True)
class FitSettings(Checked):
    """What a cut is to reach: a size in memory (`size`), or a speed.

    Raises:
        UsageError: both, options of the one for the other, or numbers that cannot be.
    """

    size: Annotated[
        int | None,
        Option(
            "Drop the fewest layers that make weights, KV cache and work fit this: 8GiB.",
            flag="--fit", panel=_PANEL, typed=str | None, parse=parse_target,
            shown=False,
        ),
    ] = None  # fmt: skip
    speed: Annotated[
        float | None,
        Option(
            "Drop the fewest layers that make the model so much faster: 1.3x.",
            panel=_PANEL, typed=str | None, parse=parse_speed, shown=False,
        ),
    ] = None  # fmt: skip
    context: Annotated[
        int | None,
        Option(
            "With --fit or --speed: tokens of a sequence, 32k for 32,000.",
            panel=_PANEL, typed=str | None, parse=partial(parse_tokens, option="--context"), shown=False,
        ),
    ] = None  # fmt: skip
    sequences: Annotated[int | None, Option("With --fit or --speed: sequences at once.", panel=_PANEL, shown="1")] = (
        None
    )
    bits: Annotated[
        int | None,
        Option("With --fit: weights as stored (16), or in 8 or 4 bits by bitsandbytes.", panel=_PANEL, shown="16"),
    ] = None
    prefill_chunk: Annotated[
        int | None,
        Option(
            "With --fit: tokens of a prompt that are read in one pass.",
            panel=_PANEL, typed=str | None, parse=partial(parse_tokens, option="--prefill-chunk"), shown="all",
        ),
    ] = None  # fmt: skip
    times: Annotated[
        Path | None, Option("With --speed: time.json, from `prune time`.", panel=_PANEL, shown="measured here")
    ] = None
    speed_of: Annotated[
        Part | None,
        Option("With --speed: tokens read (prefill) or written (decode) a second.", panel=_PANEL, shown="decode"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and self.speed is not None:
            raise UsageError("--fit and --speed are two targets; give one of them")
        for_either = {"--context": self.context, "--sequences": self.sequences}
        for_size = {"--bits": self.bits, "--prefill-chunk": self.prefill_chunk}
        for_speed = {"--times": self.times, "--speed-of": self.speed_of}
        idle: dict[str, Any] = {**(for_either if not self else {}), **(for_size if self.size is None else {})}
        idle |= for_speed if self.speed is None else {}
        if given := [option for option, value in idle.items() if value is not None]:
            place = "--fit or --speed" if given[0] in for_either else "--fit" if given[0] in for_size else "--speed"
            raise UsageError(f"{given[0]} goes with {place}; add that, or leave {given[0]} out")
        if not self:
            return
        if self.size is not None and self.size < 1:
            raise UsageError(f"--fit {self.size}: use a size above 0")
        if (self.context is not None and self.context < 2) or (self.sequences is not None and self.sequences < 1):
            raise UsageError("--context is at least 2 tokens, and --sequences at least 1")
        if self.bits is not None and self.bits not in BITS:
            raise UsageError(f"--bits {self.bits} is unknown; use 16, 8 or 4")
        if self.prefill_chunk is not None and self.prefill_chunk < 1:
            raise UsageError(f"--prefill-chunk {self.prefill_chunk} is not at least 1")
        if self.speed is not None:
            _check_speed(self.speed, self.speed)
        if self.speed_of is not None and self.speed_of not in get_args(Part):
            raise UsageError(f"--speed-of {self.speed_of} is unknown; use {' or '.join(get_args(Part))}")

    def __bool__(self) -> bool:
        """Whether there is a target at all."""
        return self.size is not None or self.speed is not None

    @property
    def option(self) -> str:
        """The option that names the target."""
        return "--fit" if self.size is not None else "--speed"

    @property
    def asked(self) -> Load:
        """How the model is to be run.

        Raises:
            UsageError: there is no `context`. It shows here, and not as the settings are made: an option that
                contradicts the target is to be told first.
        """
        from prune.models.memory.needs import Load

        if self.context is None:
            raise UsageError(f"{self.option} needs --context: how many tokens of a sequence are to be kept, such as 8k")
        return Load(self.context, self.sequences or 1, self.bits or 16, self.prefill_chunk)


@dataclass(frozen=True)
class TimeSettings(Checked):
    """How layers are timed.

    Raises:
        UsageError: a number that cannot be.
    """

    context: Annotated[
        int | None,
        Option(
            "Tokens of each prompt, 4k for 4,000; less --new-tokens where the model reads no more.",
            typed=str | None, parse=partial(parse_tokens, option="--context"), shown="4k, or what the model reads",
        ),
    ] = None  # fmt: skip
    sequences: Annotated[int, Option("Prompts at once.")] = 1
    new_tokens: Annotated[int, Option("Tokens to write behind each prompt, in each round.")] = 16
    rounds: Annotated[int, Option("Rounds that count, each of one prefill and then the new tokens.")] = 5
    device: Annotated[str, Option(wording.DEVICE)] = "auto"
    dtype: Annotated[str, Option(DTYPES)] = "auto"
    max_memory: Annotated[
        int | None,
        Option(
            "Of a model larger than this (4GiB) one layer of each kind is timed, with random weights.",
            typed=str | None, parse=parse_size, shown="what the device has", least=1,
        ),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "sequences", "new_tokens", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is not at least 1")
