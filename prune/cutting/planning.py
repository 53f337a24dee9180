"""From MODEL and what the user asked for to a plan of the cut. Reads headers and JSON; loads no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prune.choosing.choose import choose
from prune.choosing.criteria import CRITERIA
from prune.choosing.fit import SizeTarget, SpeedTarget, check_reach, fit_evidence
from prune.choosing.measured import check_measured_on
from prune.choosing.settings import CutSettings, FitSettings, TimeSettings
from prune.choosing.times import Times
from prune.choosing.timing import time_subject
from prune.common.checked import checks_arguments
from prune.common.errors import CheckpointError, UsageError
from prune.common.files.provenance import provenance
from prune.common.layers import layers_without, parse_layers, starts
from prune.cutting.plan import PLAN_FILE, CutPlan, EarlierCut, PlannedSource, Size
from prune.families.config import changes
from prune.families.llama_cpp import run_otherwise
from prune.families.subject import Subject, new_config, open_subject, remainder
from prune.models.memory.reckoning import read_needs

if TYPE_CHECKING:
    from prune.choosing.costs import Costs
    from prune.choosing.heads import Heads
    from prune.scanning.result import Scan

_Measured = TypeVar("_Measured", "Heads", "Costs", "Times")


@checks_arguments
def plan_cut(
    model: str | Path,
    *,
    n: int | None = None,
    start: int | None = None,
    layers: str | Sequence[int] | None = None,
    scan: Scan | str | Path | None = None,
    text: str | Sequence[str] = (),
    fit: FitSettings | None = None,
    settings: CutSettings | None = None,
    show_progress: bool = True,
) -> CutPlan:
    """Decide which layers to drop. Nothing is written.

    They are `layers`, or the block `start .. start+n-1`, or the `n` layers that the settings' criterion finds, or as
    few as `fit` allows.

    Args:
        model: a model folder or a hub id. Layer numbers are 0-based throughout.
        n: how many layers to drop.
        start: first layer of the block.
        layers: layers to drop, in any pattern: `"3,7,20-24"` or numbers.
        scan: a Scan of this model, or the path of its scan.json; where the criterion needs one and none is given,
            the model is scanned first.
        text: what to scan on, if it comes to that. The choice is checked on other documents of it, or of the scan's
            own text where none is given.
        fit: a size or a speed that the cut model is to reach, in the place of `n`.
        settings: how the layers are found, checked and scanned for; the defaults if None.
        show_progress: of the scan and of the check.

    Raises:
        UsageError: contradicting options, or layers that do not fit the model.
        CheckpointError: the model, the scan, or the heads cannot be used; or the cut cannot be exact for this family.
        RegrowthError: the full model meets the target already, or no cut does.
    """
    settings = settings or CutSettings()
    if fit:
        _check_target(fit, n, start, layers)
    named = None if fit else _named_layers(n, start, layers)
    idle = {"--scan": scan, "--criterion": settings.criterion, "--protect-heads": settings.protect_heads}
    if named is not None and (given := [option for option, value in idle.items() if value is not None]):
        raise UsageError(
            f"{'--start' if layers is None else '--layers'} says which layers, so {given[0]} has no say; leave one out"
        )
    subject = open_subject(model, revision=settings.revision, carry_code=settings.trust_remote_code)
    heads = heads_of(settings.heads, subject)
    if named is not None:
        _check_named(named, subject.layers, settings.allow_last)
        evidence = _heads_evidence(heads, tuple(named), settings)
        return _assemble(subject, tuple(named), "named", evidence, carry_code=settings.trust_remote_code)
    target = None
    if fit:
        target = target_of(fit, subject, settings, show_progress=show_progress)
        check_reach(target, subject.source.name)
    else:
        assert n is not None
        starts(subject.layers, n, allow_last=settings.allow_last)
        if n == subject.layers:
            raise UsageError(f"--n {n}: at least one of the {n} layers has to stay")
    known, costs = scan_of(scan, subject), costs_of(settings.costs, subject)
    criterion = CRITERIA[settings.criterion_name]
    if settings.runs_model or (known is None and criterion.needs == "scan"):
        new_config(subject, range(subject.layers), carry_code=False)  # what cannot be cut shows before a long scan
    choice = choose(
        subject.source,
        subject.layers,
        target or n or 0,
        settings,
        scan=known,
        heads=heads,
        costs=costs,
        text=(text,) if isinstance(text, str) else tuple(text),
        show_progress=show_progress,
    )
    reached = fit_evidence(target, choice.tried, choice.dropped) if target is not None else {}
    return _assemble(
        subject,
        choice.dropped,
        criterion.name,
        {**choice.evidence, **_heads_evidence(heads, choice.dropped, settings), **reached},
        carry_code=settings.trust_remote_code,
        made=choice.made,
    )


def _check_target(fit: FitSettings, n: int | None, start: int | None, layers: str | Sequence[int] | None) -> None:
    """Refuse a target beside layers that the user chose, and then one that cannot be counted.

    Raises:
        UsageError: layers are named, or counted, beside a target; or it has no context.
    """
    for option, value in (("--n", n), ("--start", start), ("--layers", layers)):
        if value is not None:
            raise UsageError(f"{fit.option} says how many layers go, so {option} has no say; leave one of them out")
    _ = fit.asked


def target_of(
    fit: FitSettings, subject: Subject, settings: CutSettings, *, show_progress: bool = True
) -> SizeTarget | SpeedTarget:
    """The target that settings ask for, of an opened model: with what each of its layers takes.

    Raises:
        UsageError: more tokens than the model can read, or times that were taken otherwise.
        CheckpointError: what the model takes cannot be told, or the times are of another model.
    """
    if fit.size is not None:
        needs = read_needs(
            subject.source,
            subject.checkpoint,
            fit.asked,
            layer_of=subject.names.layer,
            layers=subject.layers,
            trust_remote_code=settings.trust_remote_code,
        )
        return SizeTarget(fit.size, needs)
    assert fit.speed is not None
    return SpeedTarget(fit.speed, fit.speed_of or "decode", _times(fit, subject, settings, show_progress))


def _times(fit: FitSettings, subject: Subject, settings: CutSettings, show_progress: bool) -> Times:
    """The measured seconds of each layer: read, or measured here."""
    asked = fit.asked
    if fit.times is None:
        how = TimeSettings(context=asked.context, sequences=asked.sequences, max_memory=settings.scanning.max_memory)
        return time_subject(subject, how, trust_remote_code=settings.trust_remote_code, show_progress=show_progress)
    times = _read_measured(Times, fit.times, subject)
    if (times.context, times.sequences) != (asked.context, asked.sequences):
        raise UsageError(
            f"{fit.times} was taken with {times.sequences} x {times.context} tokens, not with --sequences "
            f"{asked.sequences} and --context {asked.context}; time again, or ask for the same"
        )
    return times


def _named_layers(n: int | None, start: int | None, layers: str | Sequence[int] | None) -> Sequence[int] | None:
    """The layers that were named outright, or None where a criterion has to find them."""
    if layers is not None:
        if start is not None or n is not None:
            raise UsageError(f"--layers says by itself which; leave {'--start' if start is not None else '--n'} out")
        return parse_layers(layers if isinstance(layers, str) else ",".join(map(str, layers)))
    if n is None:
        raise UsageError("say what to drop: --n 6, or --n 6 --start 13, or --layers 3,7,20-24")
    if n < 1:
        raise UsageError(f"--n {n}: at least one layer has to be dropped")
    if start is not None and start < 0:
        raise UsageError(f"--start {start}: layers are numbered from 0")
    return None if start is None else range(start, start + n)


def _check_named(dropped: Sequence[int], layers: int, allow_last: bool) -> None:
    if dropped[-1] >= layers:
        raise UsageError(f"layers {dropped[0]} to {dropped[-1]} do not fit: the model has layers 0-{layers - 1}")
    if len(dropped) >= layers:
        raise UsageError(f"at least one of the {layers} layers has to stay")
    if dropped[-1] == layers - 1 and not allow_last:
        raise UsageError(
            f"layer {layers - 1} is the last, and a model without it is of little use; add --allow-last to drop it"
        )


def scan_of(scan: Scan | str | Path | None, subject: Subject) -> Scan | None:
    """The scan, read where a path is given; None for None.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    if scan is None:
        return None
    where = "the scan"
    if isinstance(scan, str | Path):
        from prune.scanning.result import Scan

        where, scan = str(scan), Scan.read(scan)
    _check_measured_on(subject, scan, where)
    return scan


def heads_of(path: Path | None, subject: Subject) -> Heads | None:
    """The measured heads that a file holds; None for None.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    if path is None:
        return None
    from prune.choosing.heads import Heads

    return _read_measured(Heads, path, subject)


def costs_of(path: Path | None, subject: Subject) -> Costs | None:
    """What blocks cost each domain, as a file holds it; None for None.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    if path is None:
        return None
    from prune.choosing.costs import Costs

    return _read_measured(Costs, path, subject)


def _read_measured(kind: type[_Measured], path: Path, subject: Subject) -> _Measured:
    measured = kind.read(path)
    _check_measured_on(subject, measured, str(path))
    return measured


def _check_measured_on(subject: Subject, measured: Scan | Heads | Times | Costs, where: str) -> None:
    name, identity = subject.source.name, subject.identity()
    check_measured_on(measured, where, name=name, identity=identity, layers=subject.layers)


def _heads_evidence(heads: Heads | None, dropped: Sequence[int], settings: CutSettings) -> dict[str, Any]:
    """What of the heads goes with these layers."""
    if heads is None:
        return {}
    removed = heads.removed_with(dropped)
    facts = {**asdict(removed), "of_retrieval_heads": len(heads.retrieval_heads), "protected": settings.protect_heads}
    return {"heads": facts}


def _assemble(
    subject: Subject,
    dropped: tuple[int, ...],
    criterion: str,
    evidence: dict[str, Any],
    *,
    carry_code: bool,
    made: Scan | None = None,
) -> CutPlan:
    source, checkpoint = subject.source, subject.checkpoint
    left = remainder(subject, layers_without(dropped, subject.layers), carry_code=carry_code)
    packed = "quantization_config" in checkpoint.config
    tensors = [list(checkpoint.tensors()), [t for _, layout in left.shards for t in layout.tensors]]
    before, after = (
        Size(
            tensors=len(some),
            bytes=sum(t.size for t in some),
            parameters=None if packed else sum(t.elements for t in some),
        )
        for some in tensors
    )
    plan = CutPlan(
        source=PlannedSource(model=source.name, commit=source.commit, **subject.identity()),
        model_type=checkpoint.config["model_type"],
        layers=subject.layers,
        dropped=dropped,
        criterion=criterion,
        evidence=evidence,
        config=changes(checkpoint.config, left.config),
        before=before,
        after=after,
        carry_code=carry_code,
        llama_cpp=run_otherwise(checkpoint.config, left.config, subject.family.section),
        history=_history(source.folder, subject.layers),
        provenance=provenance(),
    )
    return plan.handing_on(left, made)


def _history(folder: Path, layers: int) -> tuple[EarlierCut, ...]:
    """Earlier cuts, where the source is itself the result of one."""
    if not (folder / PLAN_FILE).is_file():
        return ()
    earlier = CutPlan.read(folder / PLAN_FILE)
    if len(earlier.kept) != layers:
        raise CheckpointError(f"{folder / PLAN_FILE} keeps {len(earlier.kept)} layers, but the model has {layers}")
    return (*earlier.history, EarlierCut(model=earlier.model, layers=earlier.layers, dropped=earlier.dropped))
