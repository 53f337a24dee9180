"""How the layers to drop are chosen: settings, which are also options of `prune cut`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from prune.choosing.criteria import CRITERIA, CriterionName
from prune.common.errors import UsageError
from prune.common.options import Option
from prune.scanning.settings import ScanSettings

CHECKED = 4  # candidates that are checked by default
FEWEST_TOKENS = 512  # of held-out text for a check; fewer tell nothing


def parse_weights(text: str) -> dict[str, float]:
    """`medical=1,math=2` as {domain: weight}.

    Raises:
        UsageError: not of that form, a negative weight, or none above zero.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not name or not equals or not math.isfinite(weight) or weight < 0 or name in weights:
            raise UsageError(f"--weigh {text!r}: write medical=1,math=2, each domain once, no weight below 0")
        weights[name] = weight
    if not any(weights.values()):
        raise UsageError(f"--weigh {text!r}: at least one weight has to be above 0")
    return weights


@dataclass(frozen=True)
class CheckSettings:
    """How a choice is checked on text that it has not seen.

    Raises:
        UsageError: a negative number of candidates, or too little text.
    """

    candidates: Annotated[
        int | None,
        Option(
            "Candidates to check on held-out text, the one of least KL to the full model being taken; 0: none.",
            flag="--check",
            shown="4 for angular, else 0",
        ),
    ] = None
    tokens: Annotated[
        int, Option("Held-out text of the check; it costs at most 1.5 passes over it.", flag="--check-tokens")
    ] = 8192

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 0:
            raise UsageError(f"--check {self.candidates}: use 0 for none, or how many candidates to check")
        if self.tokens < FEWEST_TOKENS:
            raise UsageError(f"--check-tokens {self.tokens}: fewer than {FEWEST_TOKENS} tell nothing")


@dataclass(frozen=True)
class CutSettings:
    """How the layers to drop are chosen.

    `scanning` holds for the scan that is made where the criterion needs one and none is given; its `field` and `seed`
    are those of the check's text too.

    Raises:
        UsageError: an unknown criterion, costs that it needs or has no use for, or no share to protect, or of nothing.
    """

    criterion: Annotated[CriterionName | None, Option("What finds the layers.", shown="angular")] = None
    allow_last: Annotated[
        bool, Option("Let the last layer go too; a model rarely survives that.", flag="--allow-last")
    ] = False
    costs: Annotated[Path | None, Option("costs.json with what blocks cost each domain, for domain.")] = None
    weigh: Annotated[
        Mapping[str, float] | None,
        Option("Weights of the domains: medical=1,math=2.", typed=str | None, parse=parse_weights, shown="all alike"),
    ] = None
    heads: Annotated[Path | None, Option("heads.json of this model: the plan says what of its heads' scores goes.")] = (
        None
    )
    protect_heads: Annotated[
        float | None,
        Option("With --heads: keep at least this share of the copy score, such as 0.8.", shown=False),
    ] = None
    revision: Annotated[str | None, Option("Branch, tag or commit of a hub id.")] = None
    trust_remote_code: Annotated[
        bool, Option("Run the model's own Python to scan it, and carry it along.", flag="--trust-remote-code")
    ] = False
    check: CheckSettings = field(default_factory=CheckSettings)
    scanning: ScanSettings = field(default_factory=ScanSettings)

    def __post_init__(self) -> None:
        name = self.criterion_name
        if name not in CRITERIA:
            raise UsageError(f"--criterion {name} is unknown; use {', '.join(CRITERIA)}")
        needs_costs = CRITERIA[name].needs == "costs"
        if needs_costs and self.costs is None:
            raise UsageError(f"--criterion {name} goes by measured costs: give them with --costs costs.json")
        if not needs_costs and (self.costs is not None or self.weigh is not None):
            raise UsageError(f"{'--costs' if self.costs is not None else '--weigh'} belongs to --criterion domain")
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
