"""`evaluate report`: results as one page of HTML that stands alone, opens without a network and runs no other code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.billing.artefacts import Comparison
from eval.billing.sweep import SweepRecord
from eval.reports.flips import read_flips
from eval.reports.html import render_report
from eval.reports.model import Flips
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.outputs import check_files_apart, free_file, write_text

Document = Mapping[str, Any]


def report(
    results: str | Path, *, sweep: str | Path | None = None, out: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write the report of stored results: of a comparison, of a sweep, or of both in one page.

    Args:
        results: a folder with comparison.json or sweep.json, as `evaluate compare` and `evaluate sweep` make it.
        sweep: the folder of a sweep whose curves and block map the comparison's report shall show too.
        out: the file to write, and what is returned; report.html in `results` if None.

    Raises:
        CheckpointError: no results there, or files of another format.
        RegrowthError: `out` exists, or is a file of the results.
    """
    folder = Path(results)
    target = folder / "report.html" if out is None else Path(out)
    free_file(target, overwrite=overwrite)
    check_files_apart({"--out": target}, *result_files(folder), *result_files(sweep))
    comparison, own_sweep = read_results(folder)
    if sweep is not None:
        if own_sweep is not None and comparison is None:
            raise UsageError(f"{folder} holds a sweep itself; --sweep adds one to a comparison")
        own_sweep = read_sweep(sweep)
    flips = () if comparison is None else read_flips(folder, comparison)
    write_text(target, render(comparison, own_sweep, flips), overwrite=overwrite)
    return target


def result_files(folder: str | Path | None) -> tuple[Path, ...]:
    """The files of a folder that may be results: JSON and JSON lines."""
    return () if folder is None else tuple(Path(folder).glob("*.json*"))


def read_sweep(folder: str | Path) -> Document:
    """The sweep of a folder; a CheckpointError where there is none, or it is broken or of another format."""
    return SweepRecord.read(Path(folder) / "sweep.json").to_json()


def read_results(folder: Path) -> tuple[Document | None, Document | None]:
    """The comparison and the sweep that a folder holds, None for what it does not.

    Raises:
        RegrowthError: neither a comparison nor a sweep.
        CheckpointError: a file that is broken or of another format.
    """
    comparison, sweep = [
        kind.read(folder / name).to_json() if (folder / name).is_file() else None
        for name, kind in (("comparison.json", Comparison), ("sweep.json", SweepRecord))
    ]
    if comparison is None and sweep is None:
        raise RegrowthError(f"{folder} holds no comparison.json and no sweep.json; name a folder of results")
    return comparison, sweep


def render(comparison: Document | None, sweep: Document | None = None, flips: Sequence[Flips] = ()) -> str:
    """The page. The same documents give the same bytes."""
    from eval.reports.build import build

    return render_report(build(comparison, sweep, flips))
