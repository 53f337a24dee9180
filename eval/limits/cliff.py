"""`evaluate cliff`: the figures of arXiv 2403.17887 from sweeps of one model: accuracy, loss, chance, the cliff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.billing.cliff import CliffLine, CliffProse, Cliffs, lines_of, prose_of
from eval.billing.sweep import SweepRecord
from eval.reports.sections.cliff import cliff_markdown, write_cliff_figures
from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.outputs import check_apart, free_folder, staged_directory, write_text
from prune.common.files.provenance import provenance

CLIFF_FILE = "cliff.json"
_WAYS = {"best": "by similarity", "deepest": "deepest"}  # of a sweep's starts


@checks_arguments
def find_cliffs(sweeps: Sequence[str | Path], *, out: str | Path, overwrite: bool = False) -> Cliffs:
    """Accuracy and prose loss of each sweep's cuts against the share of layers dropped, in the folder `out`.

    `out` appears whole or not at all: cliff.json, cliff.md and cliff.svg.

    Args:
        sweeps: folders that `evaluate sweep` made of one model, with one start a size: best and deepest, on as many
            tasks and texts as wanted.

    Raises:
        UsageError: a sweep of several starts a size, or two of one way to cut on one task or text; a healed cut that
            is not the one of its size, or two of one size.
        CheckpointError: no sweep, or one of another format.
        RegrowthError: sweeps of two models, or nothing in them that can be drawn.
    """
    out = free_folder(out, overwrite=overwrite)
    check_apart(out, *sweeps)
    read = [SweepRecord.read(Path(folder) / "sweep.json") for folder in sweeps]
    if not read:
        raise UsageError("name one folder of `evaluate sweep` at least")
    first = read[0].provenance["model"]
    lines: list[CliffLine] = []
    prose: list[CliffProse] = []
    for folder, sweep in zip(sweeps, read, strict=True):
        if sweep.provenance["model"].get("content_sha256") != first.get("content_sha256"):
            raise RegrowthError(f"{folder} is a sweep of another model than {sweeps[0]}")
        if not isinstance(sweep.starts, str) or sweep.starts not in _WAYS:
            raise UsageError(f"{folder} has several starts a size; sweep with --starts best or --starts deepest")
        _check_healed(folder, sweep)
        lines += lines_of(sweep, _WAYS[sweep.starts])
        prose += prose_of(sweep, _WAYS[sweep.starts])
    drawn = [f"{one.domain} {one.protocol}, {one.way}" for one in lines if not one.healed]
    drawn += [f"{one.text}, {one.way}" for one in prose if not one.healed]
    if twice := [name for name in drawn if drawn.count(name) > 1]:
        raise UsageError(f"two of the sweeps hold {twice[0]}; name one of them")
    tasks = list(dict.fromkeys((line.domain, line.protocol) for line in lines))
    lines.sort(key=lambda line: tasks.index((line.domain, line.protocol)))
    cliffs = Cliffs(
        layers=read[0].layers,
        lines=tuple(lines),
        prose=tuple(prose),
        provenance=provenance(model=first, sweeps=[str(folder) for folder in sweeps]),
    )
    if not cliffs.lines and not cliffs.prose:
        raise RegrowthError(f"{sweeps[0]} holds no accuracy and no prose of two sizes, so there is nothing to draw")
    with staged_directory(out, overwrite=overwrite) as stage:
        cliffs.write(stage / CLIFF_FILE)
        write_text(stage / "cliff.md", cliff_markdown(cliffs))
        write_cliff_figures(cliffs, stage)
    return cliffs


def _check_healed(folder: str | Path, sweep: SweepRecord) -> None:
    """Refuse healed cuts that are no line beside the others: each must drop what the one of its size drops."""
    plain = {variant.n: variant for variant in sweep.variants if variant.adapter is None}
    seen: dict[int, str] = {}
    for variant in sweep.variants:
        if variant.adapter is None:
            continue
        own = plain.get(variant.n)
        if own is None:
            raise UsageError(f"{folder} has {variant.label} without its cut alone; sweep with {variant.n} in --sizes")
        if own.dropped != variant.dropped:
            raise UsageError(
                f"{folder} has {variant.label}, which drops other layers than {own.label}, the cut of its size: they "
                "are not one line; sweep without this --adapter"
            )
        if variant.n in seen:
            raise UsageError(
                f"{folder} has {seen[variant.n]} and {variant.label}, two of one size; sweep with one --adapter a size"
            )
        seen[variant.n] = variant.label
