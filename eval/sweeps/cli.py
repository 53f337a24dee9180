"""`evaluate sweep` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prune.precision import HELP as DTYPES
from prune.terminal import answer


def sweep_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id: the one to be cut.")],
    data: Annotated[Path, typer.Option(help="Folder of prepared questions: one <domain>.jsonl each.")],
    domains: Annotated[str, typer.Option(help="Domains, as medical,math.")],
    out: Annotated[Path, typer.Option(help="Folder for sweep.json, costs.json, the samples and the figures.")],
    scan: Annotated[Path | None, typer.Option(help="scan.json of this model, for --starts best.")] = None,
    sizes: Annotated[str, typer.Option(help="How many layers to drop, as 0-15 or 4,8,12.")] = "0-15",
    starts: Annotated[
        str | None,
        typer.Option(
            help="best (of the scan), deepest, all, or start layers as 3,7,10-12; best where there is a scan."
        ),
    ] = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(help="Healing adapter that sits after its cut alone: one variant more; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Questions per domain and protocol, at most; all if none.")] = None,
    seed: Annotated[int, typer.Option(help="Which questions and which prose are drawn.")] = 0,
    sets: Annotated[str | None, typer.Option(help="Only questions of these sets, as mmlu,medmcqa,asdiv.")] = None,
    few_shot: Annotated[int | None, typer.Option(help="Worked examples before each question, of the same set.")] = None,
    chat_template: Annotated[
        str, typer.Option(help="on, off, or auto: on where the model's tokenizer has a chat template.")
    ] = "auto",
    text: Annotated[
        list[str] | None,
        typer.Option(help="Held-out prose to measure the loss on too: SOURCE, or NAME=SOURCE; repeatable."),
    ] = None,
    field: Annotated[str, typer.Option(help="Field of that prose's rows that holds the text.")] = "text",
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one batch; halved where memory runs out.")] = 1024,
    max_length: Annotated[int | None, typer.Option(help="Context in tokens; the model's own, 4096 at most.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPES)] = "auto",
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
    from eval.sweeps.sweeping import sweep
    from eval.sweeps.tables import sweep_tables

    found = sweep(
        model,
        out=out,
        data=data,
        domains=domains,
        sizes=sizes,
        starts=starts,
        scan=scan,
        adapters=adapter or (),
        limit=limit,
        seed=seed,
        sets=sets,
        few_shot=few_shot,
        chat_template=chat_template,
        texts=text,
        field=field,
        batch_tokens=batch_tokens,
        max_length=max_length,
        device=device,
        dtype=dtype,
        revision=revision,
        resume=resume,
        overwrite=overwrite,
    )
    answer(found.document, lambda: sweep_tables(found.document), as_json=as_json)
