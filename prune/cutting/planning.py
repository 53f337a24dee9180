"""From MODEL and what the user asked for to a plan of the cut. Reads headers and JSON; loads no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.choosing.choose import Wanted, check_wanted, choose
from prune.choosing.criteria import CRITERIA
from prune.common.errors import CheckpointError, UsageError
from prune.common.layers import layers_without, parse_layers, starts
from prune.common.provenance import provenance
from prune.cutting.plan import PLAN_FILE, CutPlan, EarlierCut, PlannedSource, Size
from prune.families.config import changes
from prune.families.subject import Subject, new_config, open_subject, remainder

if TYPE_CHECKING:
    from prune.scanning.result import Scan


def plan_cut(
    model: str | Path,
    *,
    n: int | None = None,
    scan: Scan | str | Path | None = None,
    start: int | None = None,
    layers: str | Sequence[int] | None = None,
    criterion: str | None = None,
    allow_last: bool = False,
    text: str | Sequence[str] | None = None,
    field: str = "text",
    samples: int = 256,
    length: int = 1024,
    seed: int = 0,
    costs: str | Path | None = None,
    weigh: str | None = None,
    check: int | None = None,
    check_tokens: int = 8192,
    revision: str | None = None,
    trust_remote_code: bool = False,
    show_progress: bool = True,
) -> CutPlan:
    """Decide which layers to drop. Nothing is written.

    The place is `layers`, or the block `start .. start+n-1`, or the `n` layers that `criterion` finds.

    Args:
        model: a model folder or a hub id. Layer numbers are 0-based throughout.
        n: how many layers to drop.
        scan: a Scan of this model, or the path of its scan.json; where a criterion needs one and none is given,
            the model is scanned first.
        start: first layer of the block.
        layers: layers to drop, in any pattern: `"3,7,20-24"` or numbers.
        criterion: "angular" (the default: arXiv 2403.17887, section 3.2) or another of
            `prune.choosing.criteria.CRITERIA`.
        allow_last: whether the last layer may go, which the paper says never to drop.
        text, field, samples, length, seed: what to scan on, if it comes to that; see `prune.scanning.scan.scan`. The
            choice is checked on other documents of the same text, or of the scan's own where no text is named.
        costs, weigh: for "domain": costs.json (`prune.choosing.costs`), and weights such as "medical=1,math=2".
        check: how many candidates to check on held-out text, 0 for none; None for the criterion's default
            (4 for "angular"). Of those, the one of least KL to the full model is taken.
        check_tokens: held-out tokens drawn for the check, which costs at most 1.5 passes over them.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run the model's own Python to scan it, and carry it along.
        show_progress: of the scan.

    Raises:
        UsageError: contradicting options, or layers that do not fit the model.
        CheckpointError: the model, or the scan, cannot be used; or the cut cannot be exact for this family.
    """
    named = _check_request(n=n, scan=scan, start=start, layers=layers, criterion=criterion)
    subject = open_subject(model, revision=revision, carry_code=trust_remote_code)
    total = subject.layers
    made: Scan | None = None
    evidence: dict[str, Any] = {}
    if named is not None:
        _check_fit(named, total, allow_last)
        dropped, criterion = tuple(named), "named"
    else:
        assert n is not None
        starts(total, n, allow_last=allow_last)
        if n == total:
            raise UsageError(f"--n {n}: at least one of the {total} layers has to stay")
        criterion = criterion or "angular"
        wanted = Wanted(
            model=model,
            layers=total,
            n=n,
            criterion=criterion,
            allow_last=allow_last,
            check=check,
            check_tokens=check_tokens,
            text=(text,) if isinstance(text, str) else tuple(text or ()),
            field=field,
            samples=samples,
            length=length,
            seed=seed,
            costs=costs,
            weigh=weigh,
            revision=subject.source.commit or revision,
            trust_remote_code=trust_remote_code,
            show_progress=show_progress,
        )
        check_wanted(wanted)
        found = scan_of(scan, subject)
        if wanted.needs_model or (found is None and CRITERIA[criterion].needs == "scan"):
            new_config(subject, range(total), carry_code=False)  # what cannot be cut anywhere shows before a long scan
        choice = choose(wanted, found)
        dropped, evidence, made = choice.dropped, choice.evidence, choice.made
    return _assemble(subject, dropped, criterion, evidence, carry_code=trust_remote_code, made=made)


def _check_request(
    *,
    n: int | None,
    scan: Any,
    start: int | None,
    layers: str | Sequence[int] | None,
    criterion: str | None,
) -> Sequence[int] | None:
    """The layers that were named outright, or None where a criterion has to find them."""
    if criterion is not None and criterion not in CRITERIA:
        raise UsageError(f"--criterion {criterion} is unknown; take {', '.join(CRITERIA)}")
    place = "--layers" if layers is not None else "--start" if start is not None else None
    if layers is not None and (start is not None or n is not None):
        raise UsageError(f"--layers names the layers by itself; leave {'--start' if start is not None else '--n'} out")
    if place and (scan is not None or criterion is not None):
        raise UsageError(f"{place} names the place, so {'--scan' if scan is not None else '--criterion'} has no say")
    if layers is not None:
        return parse_layers(layers if isinstance(layers, str) else ",".join(map(str, layers)))
    if n is None:
        raise UsageError("say what to drop: --n 6, or --n 6 --start 13, or --layers 3,7,20-24")
    if n < 1:
        raise UsageError(f"--n {n}: at least one layer has to be dropped")
    if start is not None and start < 0:
        raise UsageError(f"--start {start}: layers are numbered from 0")
    return None if start is None else range(start, start + n)


def _check_fit(dropped: Sequence[int], layers: int, allow_last: bool) -> None:
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
    name = subject.source.name
    if scan.layers != subject.layers:
        raise CheckpointError(f"{where} is of a model of {scan.layers} layers, but {name} has {subject.layers}")
    made_of = scan.provenance.get("model")
    if isinstance(made_of, dict):
        ours = subject.identity()
        theirs = made_of.get("shards")
        other = None
        if made_of.get("config_sha256", ours["config_sha256"]) != ours["config_sha256"]:
            other = "another config.json"
        elif isinstance(theirs, dict) and any(theirs.get(shard) != sha for shard, sha in ours["shards"].items()):
            other = "other weights"  # a scan also lists safetensors files beside the model's own; those have no say
        if other:
            raise CheckpointError(f"{where} was made on {made_of.get('model')}, with {other} than {name}; scan again")
    return scan


def _assemble(
    subject: Subject,
    dropped: tuple[int, ...],
    criterion: str,
    evidence: dict[str, Any],
    *,
    carry_code: bool,
    made: Scan | None,
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
