"""`prune`: scan a model's layers, choose a block, cut it. Each command is one public function away."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from prune.common.errors import UsageError
from prune.common.terminal import answer, make_app, screen
from prune.models.precision import HELP as DTYPES

app = make_app("prune", "Find the layers that a language model does not need, and cut them.")


class Criterion(StrEnum):
    """How `prune cut --n` finds the layers to drop."""

    angular = "angular"
    deepest = "deepest"
    influence = "influence"
    loss = "loss"
    domain = "domain"


@app.command("cut")
def cut_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id.")],
    n: Annotated[int | None, typer.Option("--n", help="How many layers to drop.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the pruned model.")] = None,
    scan: Annotated[Path | None, typer.Option("--scan", help="scan.json of this model, from `prune scan`.")] = None,
    start: Annotated[int | None, typer.Option("--start", help="First layer of the block, 0-based.")] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Layers to drop, 0-based, ends included: 3,7,20-24.")
    ] = None,
    criterion: Annotated[
        Criterion | None, typer.Option("--criterion", help="What finds the layers.", show_default="angular")
    ] = None,
    allow_last: Annotated[
        bool, typer.Option("--allow-last", help="Let the last layer go too; a model rarely survives that.")
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="Text to scan on, and to check the choice on; may be given more than once.",
            show_default="the scan's own, or C4 from the hub",
        ),
    ] = None,
    field: Annotated[str, typer.Option("--field", help="Field of .jsonl and .parquet rows with the text.")] = "text",
    samples: Annotated[int, typer.Option("--samples", help="Samples to scan, each a window of one document.")] = 256,
    length: Annotated[int, typer.Option("--length", help="Most tokens of a sample, BOS included.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", help="Draws the samples to scan.")] = 0,
    check: Annotated[
        int | None,
        typer.Option(
            "--check",
            help="Candidates to check on held-out text, the one of least KL to the full model being taken; 0: none.",
            show_default="4 for angular, else 0",
        ),
    ] = None,
    check_tokens: Annotated[
        int, typer.Option("--check-tokens", help="Held-out text of the check; it costs at most 1.5 passes over it.")
    ] = 8192,
    costs: Annotated[
        Path | None, typer.Option("--costs", help="costs.json with what blocks cost each domain, for domain.")
    ] = None,
    weigh: Annotated[
        str | None, typer.Option("--weigh", help="Weights of the domains: medical=1,math=2.", show_default="all alike")
    ] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own Python to scan it, and carry it along.")
    ] = False,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="Hard-link shards that do not change: they stay one file with the source's.",
        ),
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="ID", help="Then upload the folder to this hub id.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push-to-hub: a private repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Drop layers and write an ordinary checkpoint that transformers loads.

    The layers are named (--layers, or --n with --start), or --n of them are found by --criterion from a scan; then
    the best candidates are run on held-out text, and the one nearest to the full model is taken (--check 0: not).

    Example: prune cut HuggingFaceTB/SmolLM2-135M --n 6 --scan scan.json --out pruned
    """
    from prune.checkpoint.companions import adapters_beside
    from prune.common.outputs import check_free
    from prune.cutting.cut import cut
    from prune.cutting.plan import PLAN_FILE
    from prune.cutting.planning import plan_cut
    from prune.cutting.publishing import check_can_publish, publish

    if out is None and not dry_run:
        raise UsageError("name the folder for the pruned model with --out, or look at the plan with --dry-run")
    if private and push_to_hub is None:
        raise UsageError("--private goes with --push-to-hub")
    if out is not None:
        check_free(out, overwrite=overwrite)
    if push_to_hub is not None and not dry_run:
        check_can_publish(push_to_hub)
    plan = plan_cut(
        model,
        n=n,
        scan=scan,
        start=start,
        layers=layers,
        criterion=criterion.value if criterion else None,
        allow_last=allow_last,
        text=text,
        field=field,
        samples=samples,
        length=length,
        seed=seed,
        check=check,
        check_tokens=check_tokens,
        costs=costs,
        weigh=weigh,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if out is not None and not dry_run:
        cut(plan, out, overwrite=overwrite, link=link)
        screen().print(f"Pruned model in {out}; its plan is {out / PLAN_FILE}")
        if Path(model).is_dir() and adapters_beside(Path(model)):
            screen().print(f"Left behind: the adapter beside {model}; it was trained for the uncut model")
        if push_to_hub is not None:
            screen().print(f"Uploaded to {publish(out, push_to_hub, private=private)}")
    answer(plan.to_json(), plan.table, as_json=as_json)


@app.command("inspect")
def inspect_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `prune cut` has written.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say what was dropped from a pruned model, from what, and by which numbers.

    Example: prune inspect pruned
    """
    from prune.cutting.verify import inspect_cut

    plan = inspect_cut(folder)
    answer(plan.to_json(), plan.table, as_json=as_json)


@app.command("verify")
def verify_command(
    full: Annotated[str, typer.Argument(metavar="FULL", help="The source: a model folder or hub id.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `prune cut` has written.")],
    logits: Annotated[
        bool, typer.Option("--logits", help="Also compare logits on a few tokens (loads both models, one at a time).")
    ] = False,
    tolerance: Annotated[float, typer.Option("--tolerance", help="What logits may differ by.")] = 1e-5,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a hub id.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="With --logits: run the model's own Python.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the finding as JSON.")] = False,
) -> None:
    """Check a pruned model against its source: every kept tensor's bytes, its config, and on request its logits.

    Exits with 0 if the pruned model is what its plan says, else with 1.

    Example: prune verify HuggingFaceTB/SmolLM2-135M pruned --logits
    """
    from prune.cutting.verify import verify_cut

    found = verify_cut(
        full, folder, logits=logits, tolerance=tolerance, revision=revision, trust_remote_code=trust_remote_code
    )
    answer(found.to_json(), found.words, as_json=as_json)
    raise typer.Exit(0 if found.sound else 1)


@app.command("scan")
def scan_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where scan.json goes.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="A .txt, .jsonl, .jsonl.gz or .parquet file, a folder of them, or hub:repo[:config[:split]]; "
            "may be given more than once, for equal shares.",
            show_default="C4 from the hub",
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="Field of a row that holds the text.")] = "text",
    samples: Annotated[int, typer.Option(help="Samples to draw, each a window of one document.")] = 256,
    length: Annotated[int, typer.Option(help="Most tokens of a sample, BOS included.")] = 1024,
    tokens: Annotated[
        Literal["last", "all"], typer.Option(help="Average over samples at the last token, or over all tokens.")
    ] = "last",
    batch_size: Annotated[str, typer.Option(help="Samples a batch; auto fills 1024 tokens (16384 on CUDA).")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help=DTYPES)] = "auto",
    max_memory: Annotated[
        str | None,
        typer.Option(
            help="A model larger than this (4GiB, 800MB) is run layer by layer from its files.",
            show_default="what the machine has",
        ),
    ] = None,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Load the weights in NF4.")] = False,
    load_in_8bit: Annotated[bool, typer.Option("--load-in-8bit", help="Load the weights in int8.")] = False,
    device_map: Annotated[
        str | None,
        typer.Option(help="auto spreads the layers over all GPUs; balanced and sequential as transformers takes them."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Keep what is measured in this file, and go on from it after an interruption.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the documents and places the windows.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run Python code that comes with the model.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the heat map: a .png, .pdf or .svg file.")] = None,
    scale: Annotated[
        Literal["row", "raw"], typer.Option(help="Colours of the heat map: each row rescaled, or d itself.")
    ] = "row",
    overwrite: Annotated[bool, typer.Option(help="Replace what stands at --out and --plot.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scan as one JSON document.")] = False,
) -> None:
    """Measure how alike the inputs of a model's layers are, for every block of layers in one pass.

    torchrun and `accelerate launch -m prune scan ...` share the samples among processes.

    Example: prune scan Qwen/Qwen3-8B --text prose.jsonl --out scan.json --plot scan.png
    """
    import sys

    from prune.common.outputs import check_free, write_bytes
    from prune.common.processes import is_main
    from prune.scanning.plots import check_figure, draw_scan
    from prune.scanning.scan import parse_batch_size, scan
    from prune.scanning.table import best_table
    from prune.text.windows import DEFAULT_SOURCE

    if load_in_4bit and load_in_8bit:
        raise UsageError("take --load-in-4bit or --load-in-8bit, not both")
    check_free(out, overwrite=overwrite)
    if plot is not None:
        check_free(check_figure(plot, scale), overwrite=overwrite)
    found = scan(
        model,
        list(text) if text else DEFAULT_SOURCE,
        field=field,
        samples=samples,
        length=length,
        tokens=tokens,
        seed=seed,
        batch_size=parse_batch_size(batch_size),
        device=device,
        dtype=dtype,
        max_memory=max_memory,
        bits=4 if load_in_4bit else 8 if load_in_8bit else None,
        device_map=device_map,
        resume=resume,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    if not is_main():
        return
    figure = draw_scan(found, plot, scale=scale) if plot is not None else b""  # if it cannot be, nothing is written
    found.write(out, overwrite=overwrite)
    if plot is not None:
        write_bytes(plot, figure, overwrite=overwrite)
    answer(found.to_json(), lambda: best_table(found, strip=sys.stdout.isatty()), as_json=as_json)
    screen().print(f"Wrote {out}" + (f" and {plot}" if plot is not None else ""))


@app.command("plot")
def plot_command(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="scan.json, from `prune scan`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figures.")],
    suffix: Annotated[Literal["png", "pdf", "svg"], typer.Option("--format", help="Kind of file.")] = "png",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures' names as JSON.")] = False,
) -> None:
    """Draw a scan: heat maps (rows rescaled, and raw), d against start for every size, and each layer's measures.

    Example: prune plot scan.json --out figures
    """
    from prune.common.outputs import check_free
    from prune.scanning.plots import plot_all
    from prune.scanning.result import Scan

    check_free(out, overwrite=overwrite)
    found = Scan.read(scan)
    files = plot_all(found, out, suffix=suffix, overwrite=overwrite)
    answer({"figures": [str(file) for file in files]}, "\n".join(map(str, files)), as_json=as_json)


def main() -> None:
    """Entry point of the console command."""
    app()
