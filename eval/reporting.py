"""`evaluate report`: the report of stored results of any kind."""

from __future__ import annotations

from pathlib import Path

from eval.depth.pages.page import depth_report, holds_depth
from eval.reports import page
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError


@checks_arguments
def report(
    results: str | Path, *, sweep: str | Path | None = None, out: str | Path | None = None, overwrite: bool = False
) -> Path:
    """Write the report of stored results: a folder of a comparison, a sweep or a depth run, or a depth.json.

    Args:
        sweep: a sweep to show beside a comparison.
        out: the file to write, and what is returned; report.html beside the results if None.

    Raises:
        CheckpointError: no results there, or files of another format.
        RegrowthError: `out` exists, or is a file of the results.
        UsageError: a sweep for a depth run.
    """
    results = Path(results)
    if not holds_depth(results):
        return page.report(results, sweep=sweep, out=out, overwrite=overwrite)
    if sweep is not None:
        raise UsageError(f"{results} holds a depth run; --sweep adds a sweep to a comparison")
    return depth_report(results, out=out, overwrite=overwrite)
