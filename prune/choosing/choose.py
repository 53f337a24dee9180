"""Which layers to drop: a criterion's choice, then the check of it on held-out text, and the numbers behind both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prune.checkpoint.source import Source, locate
from prune.choosing.cascade import spread_starts
from prune.choosing.criteria import CRITERIA, Criterion, Given
from prune.choosing.fit import Target, fewest, least_layers
from prune.choosing.protecting import HeadProtection
from prune.choosing.trial import Trial, trial_text
from prune.common.errors import RegrowthError, UsageError
from prune.common.layers import runs, starts

if TYPE_CHECKING:
    from prune.choosing.check import Removal
    from prune.choosing.costs import Costs
    from prune.choosing.heads import Heads
    from prune.choosing.settings import CutSettings
    from prune.scanning.result import Scan


@dataclass(frozen=True)
class Choice:
    """Layers to drop, rising; the numbers behind them; and the scan that was made to find them, if one was.

    `tried`: where a target was to be met, the criterion's choices of ever more layers.
    """

    dropped: tuple[int, ...]
    evidence: dict[str, Any]
    made: Scan | None = None
    tried: tuple[tuple[int, ...], ...] = ()


def choose(
    source: Source,
    layers: int,
    n: int | Target,
    settings: CutSettings,
    *,
    scan: Scan | None = None,
    heads: Heads | None = None,
    costs: Costs | None = None,
    text: Sequence[str] = (),
    show_progress: bool = True,
) -> Choice:
    """Find `n` of the `layers` layers to drop; scans the model where the criterion needs a scan and there is none.

    Args:
        n: how many; or a target, for the fewest that meet it. Then all that the check tries meet it too.
        source: the model; of one on the hub the weights are fetched if it has to be run.
        heads: of this model; what the settings protect.
        costs: of this model; what the criterion goes by, where it needs them.
        text: what to scan and to check on; if there is none, C4 and what the scan has read.

    Raises:
        UsageError: no text to check on, costs that do not fit, or no choice that keeps the share of the copy score, or
            none that meets the target as well.
        RegrowthError: no choice meets the target.
        CheckpointError: the model cannot be loaded.
    """
    criterion = CRITERIA[settings.criterion_name]
    made = protection = None
    if heads is not None and settings.protect_heads is not None:
        protection = HeadProtection(heads.copy_by_layer(), settings.protect_heads)
    if isinstance(n, int):
        _given(n, layers, settings, costs, protection)  # what cannot be shows before the model is run
    sizes = () if isinstance(n, int) else _sizes(n, criterion, settings, costs, protection)
    if scan is None and criterion.needs == "scan":
        scan = made = _scan(source, settings, text, show_progress)
    trial = _trial(source, settings, scan, text, show_progress) if settings.runs_model else None
    evidence: dict[str, Any] = {}
    last: list[Given] = []  # what the last choice was made by
    removal: Removal | None = None

    def own(size: int) -> tuple[int, ...]:
        nonlocal removal
        given = replace(_given(size, layers, settings, costs, protection), scan=scan)
        if trial and criterion.needs == "model":
            # With protection, which layers may go first hangs on how many go in all.
            removal = trial.removal(size, protection, done=None if protection else removal)
            given = replace(given, removed=removal.order)
            evidence["removal"] = {**removal.to_json(), **trial.text_facts()}
        last[:] = [given]
        return criterion.choose(given)

    tried: tuple[tuple[int, ...], ...] = ()
    if isinstance(n, int):
        dropped = own(n)
    else:
        choices, taken = fewest(n, own, sizes)
        if taken is None:
            raise RegrowthError(_short_of(n, choices, source.name, settings, costs, protection))
        dropped, tried = taken, tuple(choices)
        # Without protection its choices of fewer layers are the first of those that it takes, those not tried too.
        if removal is not None and protection is None:
            tried = tuple(tuple(sorted(removal.order[:count])) for count in range(1, len(removal.order) + 1))
    given = last[0]
    if costs and given.costs:
        evidence["domain_cost"] = given.costs[dropped[0]]
        evidence["costs"] = {"measure": costs.measure, "weigh": settings.weigh or dict.fromkeys(costs.domains, 1.0)}
    if trial and settings.candidates:
        candidates = [block for block in _candidates(given) if isinstance(n, int) or n.line(block)["met"]]
        check = trial.check(dropped, candidates)
        dropped = check.chosen
        evidence["check"] = {**check.to_json(), **trial.text_facts()}
    return Choice(dropped, {**_scan_evidence(criterion.name, dropped, scan), **evidence}, made, tried)


def _given(n: int, layers: int, settings: CutSettings, costs: Costs | None, protection: HeadProtection | None) -> Given:
    """What a choice of `n` layers goes by, before anything is measured.

    Raises:
        UsageError: no such choice keeps the share of the copy score, or none was costed.
    """
    if protection is not None:
        blocks = CRITERIA[settings.criterion_name].blocks
        protection.check(n, allow_last=settings.allow_last, blocks=blocks)
    weighed = None if costs is None else costs.weighed(n, settings.weigh)
    return Given(n, layers, settings.allow_last, costs=weighed, protection=protection)


def _sizes(
    target: Target,
    criterion: Criterion,
    settings: CutSettings,
    costs: Costs | None,
    protection: HeadProtection | None,
) -> Sequence[int]:
    """How many layers to try, rising: those that are protected and costed.

    Greedy removal runs the model, so it begins with as many layers as have to go at the least.

    Raises:
        UsageError: what is protected leaves too few, or a domain was not costed.
    """
    least, most = least_layers(target), target.layers - 1
    if protection is not None:
        most = min(most, protection.most(allow_last=settings.allow_last, blocks=criterion.blocks))
        if least > most:
            raise UsageError(_protected_words(target, least, most, protection))
    sizes: Sequence[int] = range(least if criterion.needs == "model" else 1, most + 1)
    if costs is not None:
        costs.check_weights(settings.weigh)
        costed = costs.sizes(settings.weigh)
        sizes = [n for n in sizes if n in costed]
    return sizes


def _short_of(
    target: Target,
    tried: Sequence[tuple[int, ...]],
    name: str,
    settings: CutSettings,
    costs: Costs | None,
    protection: HeadProtection | None,
) -> str:
    """Where none of the criterion's choices meets a target: how far they go, and what bounds them."""
    if costs is not None and (not tried or len(tried[-1]) == max(costs.sizes(settings.weigh))):
        held = costs.sizes(settings.weigh)
        bound = f"{settings.costs} holds blocks of up to {max(held)} layers" if held else f"{settings.costs} holds none"
        bound += "; ask for less, or measure larger blocks"
    elif protection is not None:
        return _protected_words(target, len(tried[-1]) + 1, len(tried[-1]), protection)
    else:
        bound = "ask for less"
    far = ""
    if tried:
        largest = tried[-1]
        far = f" of {name}: without {len(largest)} layers it {target.line_words(target.line(largest))}"
    return f"{target.words}: no choice of --criterion {settings.criterion_name} reaches it{far}; {bound}"


def _protected_words(target: Target, needed: int, most: int, protection: HeadProtection) -> str:
    return (
        f"{target.words} needs {needed} layers or more, and --protect-heads {protection.kept:g} leaves at most {most}; "
        "ask for less, or protect less"
    )


def _trial(source: Source, settings: CutSettings, scan: Scan | None, text: Sequence[str], show_progress: bool) -> Trial:
    """The model and text to try on. A text that cannot be read shows here, before the model is loaded."""
    dtype = scan.provenance.get("dtype") if scan is not None else None
    return Trial(
        locate(source.name, revision=source.commit),
        trial_text(scan, text, settings.scanning.field, settings.scanning.seed),
        settings,
        dtype=dtype if dtype in ("float32", "bfloat16", "float16") else "auto",
        show_progress=show_progress,
    )


def _candidates(given: Given) -> list[tuple[int, ...]]:
    """All blocks that may be dropped, the more promising starts first."""
    allowed = given.starts()
    order: Sequence[int] = allowed[::-1]
    if given.scan is not None:
        count = len(starts(given.layers, given.n, allow_last=given.allow_last))
        spread = spread_starts(given.scan.distance[given.n - 1][:count], count)
        order = [start for start in spread if start in allowed]
    return [tuple(range(start, start + given.n)) for start in order]


def _scan(source: Source, settings: CutSettings, text: Sequence[str], show_progress: bool) -> Scan:
    from prune.scanning.scan import scan
    from prune.text.windows import DEFAULT_SOURCE

    return scan(
        source.name,
        list(text) or DEFAULT_SOURCE,
        settings=settings.scanning,
        revision=source.commit,
        trust_remote_code=settings.trust_remote_code,
        show_progress=show_progress,
    )


def _scan_evidence(criterion: str, dropped: Sequence[int], scan: Scan | None) -> dict[str, Any]:
    """d(l, n) of a single block, the influence of each dropped layer, and what they were measured on."""
    if scan is None:
        return {}
    evidence: dict[str, Any] = {}
    blocks = runs(dropped)
    if len(blocks) == 1:
        start, n = blocks[0]
        evidence["angular_distance"] = scan.distance[n - 1][start]
    if criterion == "influence":
        evidence["influence"] = [scan.influence[layer] for layer in dropped]
    scanned = {"samples": scan.samples, "tokens": scan.tokens, "length": scan.length}
    evidence["scan"] = {**scanned, "text": scan.provenance.get("text"), "seed": scan.provenance.get("seed")}
    return evidence
