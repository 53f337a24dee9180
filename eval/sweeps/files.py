"""The folder of a sweep: sweep.json, costs.json, samples per task, figures and the report; whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from prune.common.outputs import staged_directory, write_json, write_text

if TYPE_CHECKING:
    from eval.sweeps.run import Sweep


def write_sweep(found: Sweep, out: str | Path, *, overwrite: bool = False) -> None:
    """Write all files of a sweep into a staged folder, which then becomes `out`."""
    from eval.reports.figures import save_figure
    from eval.reports.page import report
    from eval.reports.sweep_figures import curves_figure, map_figure
    from eval.sweeps.scores import sample_rows

    with staged_directory(out, overwrite=overwrite) as stage:
        write_json(stage / "sweep.json", found.document)
        write_json(stage / "costs.json", found.costs)
        for task in found.tasks:
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in sample_rows(task))
            write_text(stage / f"samples_{task.plan.name}.jsonl", "".join(lines))
        figures = {"curves": curves_figure(found.document)}
        if found.document["maps"]:
            figures["map"] = map_figure(found.document)
        for name, figure in figures.items():
            save_figure(figure, stage / name)
        report(stage)
