"""Which layers to drop: a criterion's choice, then the check of it on held-out text, and the numbers behind both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.source import locate
from prune.choosing.cascade import spread_starts
from prune.choosing.costs import Costs, parse_weights
from prune.choosing.criteria import CRITERIA, Given
from prune.choosing.trial import CHECKED, Measured, Trial, trial_text
from prune.common.errors import CheckpointError, UsageError
from prune.common.layers import runs, starts

if TYPE_CHECKING:
    from prune.scanning.result import Scan


@dataclass(frozen=True)
class Wanted:
    """What is asked: `n` of `layers` layers of `model`, found by `criterion`.

    check: candidates to check on text; None for the criterion's default. check_tokens: held-out text for it.
    text, field, samples, length, seed: what to scan on and to check on; no text: the scan's own.
    costs, weigh: for "domain".
    """

    model: str | Path
    layers: int
    n: int
    criterion: str = "angular"
    allow_last: bool = False
    check: int | None = None
    check_tokens: int = 8192
    text: tuple[str, ...] = ()
    field: str = "text"
    samples: int = 256
    length: int = 1024
    seed: int = 0
    costs: str | Path | None = None
    weigh: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    show_progress: bool = True

    @property
    def finalists(self) -> int:
        """How many candidates are checked; 0 for none."""
        if self.check is not None:
            return self.check
        return CHECKED if CRITERIA[self.criterion].checked else 0

    @property
    def needs_model(self) -> bool:
        """Whether the model has to be run to choose, scan apart."""
        return self.finalists > 0 or CRITERIA[self.criterion].needs == "model"


@dataclass(frozen=True)
class Choice:
    """Layers to drop, rising; the numbers behind them; and the scan that was made to find them, if one was."""

    dropped: tuple[int, ...]
    evidence: dict[str, Any]
    made: Scan | None = None


def check_wanted(wanted: Wanted) -> None:
    """Refuse what contradicts itself, before anything is read.

    Raises:
        UsageError: which option, and what to do.
    """
    if wanted.check is not None and wanted.check < 0:
        raise UsageError(f"--check {wanted.check}: use 0 for none, or how many candidates to check")
    if wanted.check_tokens < 512:
        raise UsageError(f"--check-tokens {wanted.check_tokens}: fewer than 512 tell nothing")
    needs_costs = CRITERIA[wanted.criterion].needs == "costs"
    if needs_costs and wanted.costs is None:
        raise UsageError(f"--criterion {wanted.criterion} goes by measured costs: name them with --costs costs.json")
    if not needs_costs and (wanted.costs is not None or wanted.weigh is not None):
        raise UsageError(f"{'--costs' if wanted.costs is not None else '--weigh'} belongs to --criterion domain")


def choose(wanted: Wanted, scan: Scan | None) -> Choice:
    """Find the layers to drop; scans the model where the criterion needs a scan and there is none.

    Raises:
        UsageError: no text to check on, or costs that do not fit.
        CheckpointError: the costs are of another model, or the model cannot be loaded.
    """
    criterion = CRITERIA[wanted.criterion]
    weights = parse_weights(wanted.weigh) if wanted.weigh else None
    costs = _costs_of(wanted)
    made = None
    if scan is None and criterion.needs == "scan":
        scan = made = _scan(wanted)
    bench = _Bench(wanted, scan)
    if wanted.needs_model:
        bench.trial  # noqa: B018  (a text that cannot be read shows before a model is loaded)
    evidence: dict[str, Any] = {}

    def removal(n: int) -> list[int]:
        order, losses, tokens = bench.measured.removal(n, allow_last=wanted.allow_last)
        evidence["removal"] = {"order": order, "loss": losses, "tokens": tokens, **bench.measured.facts()}
        return order

    table = costs.weighed(wanted.n, weights) if costs is not None else None
    own = criterion.choose(Given(wanted.n, wanted.layers, wanted.allow_last, scan, table, removal))
    if costs is not None and table is not None:
        evidence["domain_cost"] = table[own[0]]
        evidence["costs"] = {"measure": costs.measure, "weigh": weights or dict.fromkeys(costs.domains, 1.0)}
    dropped = own
    if wanted.finalists:
        check = bench.measured.check(own, _candidates(wanted, scan), wanted.finalists)
        dropped = check.chosen
        evidence["check"] = {**check.to_json(), **bench.measured.facts()}
    return Choice(dropped, {**_scan_evidence(wanted.criterion, dropped, scan), **evidence}, made)


class _Bench:
    """The model and held-out text, loaded when first asked for."""

    def __init__(self, wanted: Wanted, scan: Scan | None) -> None:
        self.wanted, self.scan = wanted, scan

    @cached_property
    def trial(self) -> Trial:
        wanted = self.wanted
        sources, field, seed, skip = trial_text(self.scan, wanted.text, wanted.field, wanted.seed)
        dtype = self.scan.provenance.get("dtype") if self.scan is not None else None
        return Trial(
            source=locate(wanted.model, revision=wanted.revision),
            sources=sources,
            field=field,
            seed=seed,
            skip=skip,
            skip_length=None if self.scan is None else self.scan.length,
            tokens=wanted.check_tokens,
            dtype=dtype if dtype in ("float32", "bfloat16", "float16") else "auto",
            trust_remote_code=wanted.trust_remote_code,
            show_progress=wanted.show_progress,
        )

    @cached_property
    def measured(self) -> Measured:
        return Measured(self.trial)


def _candidates(wanted: Wanted, scan: Scan | None) -> list[tuple[int, ...]]:
    """All blocks that may be dropped, the more promising starts first."""
    allowed = starts(wanted.layers, wanted.n, allow_last=wanted.allow_last)
    if scan is None:
        order: Sequence[int] = allowed[::-1]
    else:
        order = spread_starts(scan.distance[wanted.n - 1][: len(allowed)], len(allowed))
    return [tuple(range(start, start + wanted.n)) for start in order]


def _scan(wanted: Wanted) -> Scan:
    from prune.scanning.scan import scan as scan_model
    from prune.text.windows import DEFAULT_SOURCE

    return scan_model(
        wanted.model,
        list(wanted.text) or DEFAULT_SOURCE,
        field=wanted.field,
        samples=wanted.samples,
        length=wanted.length,
        seed=wanted.seed,
        revision=wanted.revision,
        trust_remote_code=wanted.trust_remote_code,
        show_progress=wanted.show_progress,
    )


def _costs_of(wanted: Wanted) -> Costs | None:
    if wanted.costs is None:
        return None
    costs = Costs.read(wanted.costs)
    if costs.layers != wanted.layers:
        raise CheckpointError(
            f"{wanted.costs} is of a model of {costs.layers} layers, but {wanted.model} has {wanted.layers}"
        )
    return costs


def _scan_evidence(criterion: str, dropped: Sequence[int], scan: Scan | None) -> dict[str, Any]:
    """d(l, n) of a single block, the influence of each dropped layer, and what they were measured on."""
    if scan is None:
        return {}
    found: dict[str, Any] = {}
    blocks = runs(dropped)
    if len(blocks) == 1:
        start, n = blocks[0]
        found["angular_distance"] = scan.distance[n - 1][start]
    if criterion == "influence":
        found["influence"] = [scan.influence[layer] for layer in dropped]
    scanned = {"samples": scan.samples, "tokens": scan.tokens, "length": scan.length}
    found["scan"] = {**scanned, "text": scan.provenance.get("text"), "seed": scan.provenance.get("seed")}
    return found
