"""The report of a depth run: one page that stands alone, and its figures as SVG files."""

from __future__ import annotations

from pathlib import Path

from eval.depth.document import DepthRecord
from eval.depth.pages.sections import sections, top
from eval.reports.build import with_facts
from eval.reports.drawing.sheet import sheet
from eval.reports.html import render_report
from eval.reports.page import result_files
from prune.common.files.outputs import check_files_apart, free_file, write_text

_FILE = "depth.json"


def holds_depth(results: Path) -> bool:
    """Whether `results` is a depth.json, or the folder of one."""
    return (results.name == _FILE and results.is_file()) or (results / _FILE).is_file()


def depth_report(results: Path, *, out: str | Path | None = None, overwrite: bool = False) -> Path:
    """Write the report of a depth run.

    Args:
        results: its folder, or its depth.json.
        out: the file to write, and what is returned; report.html beside the results if None.

    Raises:
        CheckpointError: a depth.json that is broken or of another format.
        RegrowthError: `out` exists, or is a file of the results.
    """
    file = results if results.is_file() else results / _FILE
    target = file.parent / "report.html" if out is None else Path(out)
    free_file(target, overwrite=overwrite)
    check_files_apart({"--out": target}, *result_files(file.parent))
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
