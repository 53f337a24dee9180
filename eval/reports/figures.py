"""The figures of a comparison and of a sweep as SVG files beside their pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.reports.drawing.sheet import sheet
from eval.reports.model import Section
from eval.reports.sections.comparison import domains_section, thinking_section
from eval.reports.sections.sweep import curves_section, map_section
from prune.common.files.outputs import write_text


def write_comparison_figures(comparison: Mapping[str, Any], folder: Path) -> None:
    """Write comparison.svg, and thinking.svg where models thought fast and slow."""
    _write({"comparison": domains_section(comparison), "thinking": thinking_section(comparison)}, folder)


def write_sweep_figures(sweep: Mapping[str, Any], folder: Path) -> None:
    """Write curves.svg where there are several sizes, and map.svg where there are several starts."""
    _write({"curves": curves_section(sweep), "map": map_section(sweep)}, folder)


def _write(sections: Mapping[str, Section | None], folder: Path) -> None:
    for name, section in sections.items():
        if section is not None and section.figures:
            write_text(folder / f"{name}.svg", sheet(section))
