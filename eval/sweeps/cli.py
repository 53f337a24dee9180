"""`evaluate sweep` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eval.options import takes_questions
from prune.common.terminal import answer

_CUTS = "Cuts"


@takes_questions
def sweep_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id: the one to be cut.")],
    asked: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for sweep.json, costs.json, the samples and the figures.")],
    scan: Annotated[
        Path | None, typer.Option(help="scan.json of this model, for --starts best.", rich_help_panel=_CUTS)
    ] = None,
    sizes: Annotated[
        str, typer.Option(help="How many layers to drop, as 0-15 or 4,8,12.", rich_help_panel=_CUTS)
    ] = "0-15",
    starts: Annotated[
        str | None,
        typer.Option(
            help="best (of the scan), deepest, all, or start layers as 3,7,10-12; best where there is a scan.",
            rich_help_panel=_CUTS,
        ),
    ] = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(
            help="Healing adapter that sits after its cut alone: one variant more; repeatable.", rich_help_panel=_CUTS
        ),
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one batch; halved where memory runs out.")] = 1024,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="File that keeps the answers, so that an interrupted sweep goes on.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at --out.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")
    ] = False,
) -> None:
    """Put the same questions to many cuts of a model at once, computing once what they share.

    Example: evaluate sweep model/ --scan scan.json --sizes 0-15 --data questions --domains medical,math --out sweep
    """
    from eval.reports.sweep_terminal import sweep_tables
    from eval.sweeps.run import sweep

    found = sweep(
        model,
        out=out,
        sizes=sizes,
        starts=starts,
        scan=scan,
        adapters=adapter or (),
        batch_tokens=batch_tokens,
        revision=revision,
        resume=resume,
        overwrite=overwrite,
        **asked,
    )
    answer(found.document, lambda: sweep_tables(found.document), as_json=as_json)
