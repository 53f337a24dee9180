"""The report of a depth run: one page that stands alone, and its figures as SVG files."""

from __future__ import annotations

from pathlib import Path

from eval.depth.document import DepthRecord
from eval.depth.pages.sections import sections, top
from eval.reports import page
from eval.reports.build import with_facts
from eval.reports.drawing.sheet import sheet
from eval.reports.html import render_report
from prune.common.checked import checks_arguments
from prune.common.errors import UsageError
from prune.common.files.outputs import check_files_apart, write_text

_FILE = "depth.json"


@checks_arguments
def report(
    results: str | Path, *, sweep: str | Path | None = None, out: str | Path | None = None, overwrite: bool = False
) -> Path:
    """The report of stored results of any kind: a folder of a comparison, a sweep or a depth run, or a depth.json.

    Args:
        sweep: a sweep to show beside a comparison.
        out: the file to write, and what is returned; report.html beside the results if None.

    Raises:
        CheckpointError: no results there, or files of another format.
        RegrowthError: `out` exists, or is a file of the results.
        UsageError: a sweep for a depth run.
    """
    results = Path(results)
    if not (results.name == _FILE and results.is_file()) and not (results / _FILE).is_file():
        return page.report(results, sweep=sweep, out=out, overwrite=overwrite)
    if sweep is not None:
        raise UsageError(f"{results} holds a depth run; --sweep adds a sweep to a comparison")
    return _depth_report(results, out=out, overwrite=overwrite)


def _depth_report(results: str | Path, *, out: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the report of a depth run, of which `results` is the folder or the depth.json."""
    results = Path(results)
    file = results if results.is_file() else results / _FILE
    target = file.parent / "report.html" if out is None else Path(out)
    check_files_apart({"--out": target}, *page.result_files(file.parent))
    write_text(target, render(DepthRecord.read(file)), overwrite=overwrite)
    return target


def render(document: DepthRecord) -> str:
    """The page. The same document gives the same bytes."""
    title = "What the layers are for"
    return render_report(with_facts(document.to_json(), title, top(document), sections(document)))


def write_figures(document: DepthRecord, folder: Path) -> None:
    """Write each section's figures as one SVG file."""
    for section in sections(document):
        if section.figures:
            write_text(folder / f"{section.key}.svg", sheet(section))
