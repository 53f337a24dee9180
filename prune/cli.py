"""`prune`: scan a model's layers, choose a block, cut it. Each command is one public function away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from prune.choosing.settings import CheckSettings, CutSettings, FitSettings, TimeSettings
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import settings_options, takes
from prune.common.screen.terminal import AsJson, Model, Overwrite, Resume, answer, make_app, screen
from prune.cutting.settings import TOLERANCE
from prune.instruments.concepts.settings import ConceptsSettings
from prune.instruments.settings import HeadsSettings
from prune.options import (
    LISTS,
    ORIGIN,
    WHICH,
    Texts,
    check_cut_apart,
    check_svg,
    check_written,
    say_written,
    write_measured,
)
from prune.scanning.settings import ScanSettings
from prune.writing.settings import WriteSettings

app = make_app("prune", "Find the layers that a language model does not need, and cut them.")


@app.command("cut")
@takes(
    which=WHICH,
    fit=settings_options(FitSettings),
    settings=settings_options(CutSettings),
    check=settings_options(CheckSettings),
    scanning=settings_options(ScanSettings, only=["field", "samples", "length", "seed", "max_memory"]),
)
def cut_command(
    model: Model,
    which: dict[str, Any],
    fit: FitSettings,
    settings: CutSettings,
    check: CheckSettings,
    scanning: dict[str, Any],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the pruned model.")] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Hard-link shards that do not change: they stay one file with the source's.")
    ] = False,
    push_to_hub: Annotated[
        str | None, typer.Option("--push-to-hub", metavar="ID", help="Then upload the folder to this hub id.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push-to-hub: a private repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Drop layers and write an ordinary checkpoint that transformers loads.

    Name the layers (--layers, or --n with --start), or let --criterion choose --n of them. The likeliest blocks are
    then tried on held-out text, and the one that leaves the model nearest to the full one is dropped (--check 0: no
    check). --fit and --speed find --n: the fewest layers that make the model fit, or so much faster.

    Example: prune cut HuggingFaceTB/SmolLM2-135M --n 6 --scan scan.json --out pruned
    """
    from prune.checkpoint.companions import adapters_beside
    from prune.choosing.fit import fit_table
    from prune.common.files.outputs import free_folder
    from prune.cutting.cut import cut
    from prune.cutting.plan import PLAN_FILE
    from prune.cutting.planning import plan_cut
    from prune.cutting.publishing import check_can_publish, publish

    if out is None and not dry_run:
        raise UsageError("give the folder for the pruned model with --out, or look at the plan with --dry-run")
    if private and push_to_hub is None:
        raise UsageError("--private goes with --push-to-hub")
    if out is not None:
        free_folder(out, overwrite=overwrite)
        check_cut_apart(out, model, which, fit, settings)
    if push_to_hub is not None and not dry_run:
        check_can_publish(push_to_hub)
    settings = replace(settings, check=check, scanning=ScanSettings(**scanning))
    plan = plan_cut(model, **{**which, "text": which["text"] or ()}, fit=fit, settings=settings)
    written = out is not None and not dry_run
    if out is not None and not dry_run:
        if (sizes := fit_table(plan.evidence)) is not None:
            screen().print(sizes)
        cut(plan, out, overwrite=overwrite, link=link)
        screen().print(f"Pruned model in {out}; its plan is {out / PLAN_FILE}")
        if Path(model).is_dir() and adapters_beside(Path(model)):
            screen().print(f"Left behind: the adapter beside {model}; it was trained for the uncut model")
        if push_to_hub is not None:
            screen().print(f"Uploaded to {publish(out, push_to_hub, private=private)}")
    for line in plan.warnings:
        screen().print(line)
    answer(plan.to_json(), lambda: plan.table(sizes=not written), as_json=as_json)


@app.command("time")
@takes(settings=settings_options(TimeSettings), origin=ORIGIN)
def time_command(
    model: Model,
    settings: TimeSettings,
    origin: dict[str, Any],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where time.json goes, for `prune cut --times`.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure how long the layers take on this device: to read a prompt (prefill), and to write a token (decode).

    Example: prune time Qwen/Qwen3-8B --context 4k --out time.json
    """
    from prune.choosing.timing import time_layers

    check_written(model, None, {"--out": out}, overwrite=overwrite)
    times = time_layers(model, settings=settings, **origin)
    if out is not None:
        times.write(out, overwrite=overwrite)
    answer(times.to_json(), times.table, as_json=as_json)


@app.command("inspect")
def inspect_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `prune cut` has written.")],
    as_json: AsJson = False,
) -> None:
    """Say what was dropped from a pruned model, from what, and by which numbers.

    Example: prune inspect pruned
    """
    from prune.cutting.verify import inspect_cut

    plan = inspect_cut(folder)
    answer(plan.to_json(), plan.table, as_json=as_json)


@app.command("verify")
@takes(origin=ORIGIN)
def verify_command(
    full: Annotated[str, typer.Argument(metavar="FULL", help=f"{wording.MODEL}: the one that was cut.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `prune cut` has written.")],
    origin: dict[str, Any],
    logits: Annotated[
        bool, typer.Option("--logits", help="Also compare logits on a few tokens (loads both models, one at a time).")
    ] = False,
    tolerance: Annotated[float, typer.Option("--tolerance", help="What logits may differ by.")] = TOLERANCE,
    as_json: AsJson = False,
) -> None:
    """Check a pruned model against its source: every kept tensor's bytes, its config, and on request its logits.

    Exits with 0 if the pruned model is what its plan says, else with 1.

    Example: prune verify HuggingFaceTB/SmolLM2-135M pruned --logits
    """
    from prune.cutting.verify import verify_cut

    verification = verify_cut(full, folder, logits=logits, tolerance=tolerance, **origin)
    answer(verification.to_json(), verification.words, as_json=as_json)
    raise typer.Exit(0 if verification.sound else 1)


@app.command("scan")
@takes(settings=settings_options(ScanSettings), origin=ORIGIN)
def scan_command(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where scan.json goes.")],
    settings: ScanSettings,
    origin: dict[str, Any],
    text: Annotated[
        Texts,
        typer.Option(
            help=f"What to scan on: {wording.SOURCE}; may be given more than once, for equal shares.",
            show_default="C4 from the hub",
        ),
    ] = None,
    resume: Resume = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the heat map: a .png, .pdf or .svg file.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure how much each block of layers changes its input, for all blocks in one pass.

    torchrun and `accelerate launch -m prune scan ...` share the samples among processes. A scan that was interrupted
    goes on with --resume.

    Example: prune scan Qwen/Qwen3-8B --text prose.jsonl --out scan.json --plot scan.png
    """
    import sys

    from prune.common.files.resume import Unfinished
    from prune.common.machine.processes import is_main
    from prune.scanning.plots import check_figure, draw_scan
    from prune.scanning.scan import scan
    from prune.scanning.table import best_table
    from prune.text.windows import DEFAULT_SOURCE

    if plot is not None:
        check_figure(plot)
    check_written(model, text, {"--out": out, "--plot": plot}, overwrite=overwrite)
    unfinished = Unfinished.beside(out, resume=resume, overwrite=overwrite)
    with unfinished:
        measured = scan(model, text or DEFAULT_SOURCE, settings=settings, unfinished=unfinished, **origin)
    if not is_main():
        return
    figure = draw_scan(measured, plot) if plot is not None else b""  # if it fails, nothing is written
    write_measured(measured, figure, out, plot, unfinished, overwrite=overwrite)
    answer(measured.to_json(), lambda: best_table(measured, strip=sys.stdout.isatty()), as_json=as_json)
    say_written(out, plot)


@app.command("plot")
def plot_command(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="scan.json, from `prune scan`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figures.")],
    suffix: Annotated[Literal["png", "pdf", "svg"], typer.Option("--format", help="Kind of file.")] = "png",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw a scan: heat maps (rows rescaled, and raw), distance against start for each size, and each layer's measures.

    Example: prune plot scan.json --out figures
    """
    from prune.common.files.outputs import check_apart, free_folder
    from prune.scanning.plots import MARKS, plot_all
    from prune.scanning.result import Scan

    free_folder(out, overwrite=overwrite, marks=MARKS)
    check_apart(out, scan)
    files = plot_all(Scan.read(scan), out, suffix=suffix, overwrite=overwrite)
    answer({"figures": [str(file) for file in files]}, "\n".join(map(str, files)), as_json=as_json)


@app.command("heads")
@takes(settings=settings_options(HeadsSettings, defaults=LISTS), origin=ORIGIN)
def heads_command(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where heads.json goes.")],
    settings: HeadsSettings,
    origin: dict[str, Any],
    text: Annotated[
        Texts,
        typer.Option(
            help="What the needles are hidden in: a file, a folder or hub:repo, as `prune scan` takes it; may be "
            "given more than once.",
            show_default="C4 from the hub",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="heads.json of the model that this one was cut from, to compare with.")
    ] = None,
    resume: Resume = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the map of all heads: an .svg file.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find the attention heads that copy from the context, and test them by ablation.

    Invented facts are hidden in a text and asked for. Every head gets two scores. Then the highest heads are taken out,
    and for comparison as many random ones: recall of the text should fall, facts known by heart and sums should not.

    Example: prune heads Qwen/Qwen3-8B --text prose.jsonl --out heads.json --plot heads.svg
    """
    from prune.common.files.resume import Unfinished
    from prune.instruments.heads import heads
    from prune.instruments.showing import draw_heads, heads_table
    from prune.text.windows import DEFAULT_SOURCE

    check_svg(plot, "the map of heads is")
    check_written(model, text, {"--out": out, "--plot": plot}, against, overwrite=overwrite)
    unfinished = Unfinished.beside(out, resume=resume, overwrite=overwrite)
    how = {"settings": settings, "against": against, "unfinished": unfinished, **origin}
    with unfinished:
        measured = heads(model, text or DEFAULT_SOURCE, **how)
    figure = draw_heads(measured).encode() if plot is not None else b""
    write_measured(measured, figure, out, plot, unfinished, overwrite=overwrite)
    answer(measured.to_json(), lambda: heads_table(measured), as_json=as_json)
    say_written(out, plot)


@app.command("concepts")
@takes(settings=settings_options(ConceptsSettings, defaults={"tokens": "30k"}), origin=ORIGIN)
def concepts_command(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where concepts.json goes.")],
    settings: ConceptsSettings,
    origin: dict[str, Any],
    text: Annotated[
        Texts,
        typer.Option(
            help="Prose to read words in: a file, a folder or hub:repo, as `prune scan` takes it; may be given more "
            "than once.",
            show_default="C4 from the hub",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="concepts.json of another model on the same text, such as the one before a cut or healing."),
    ] = None,
    resume: Resume = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw the shares over depth: an .svg file.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Cluster the hidden states of words, layer by layer, and find the known labels that the clusters match.

    Labels are lexical (casing, place in the sentence, n-grams, the word itself) and morphological (prefix, suffix);
    with the extra `concepts` also syntactic (part of speech, dependency) and semantic (entities, synonyms).

    Example: prune concepts Qwen/Qwen3-8B --text prose.jsonl --out concepts.json --plot concepts.svg
    """
    from prune.common.files.resume import Unfinished
    from prune.instruments.concepts.concepts import concepts
    from prune.instruments.concepts.showing import concepts_table, draw_concepts
    from prune.text.windows import DEFAULT_SOURCE

    check_svg(plot, "the shares over depth are")
    check_written(model, text, {"--out": out, "--plot": plot}, against, overwrite=overwrite)
    unfinished = Unfinished.beside(out, resume=resume, overwrite=overwrite)
    how = {"settings": settings, "against": against, "unfinished": unfinished, **origin}
    with unfinished:
        measured = concepts(model, text or DEFAULT_SOURCE, **how)
    figure = draw_concepts(measured).encode() if plot is not None else b""
    write_measured(measured, figure, out, plot, unfinished, overwrite=overwrite)
    answer(measured.to_json(), lambda: concepts_table(measured), as_json=as_json)
    say_written(out, plot)


@app.command("write")
@takes(settings=settings_options(WriteSettings, defaults={"thinking": ",".join(WriteSettings.thinking)}), origin=ORIGIN)
def write_command(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the text goes: a .jsonl file.")],
    prompts: Annotated[
        list[str],
        typer.Option(
            help="What the model answers: rows with `prompt`, `question`, `messages` or `text`, or lines of a .txt; a "
            "file, a folder or hub:repo. May be given more than once, in turns."
        ),
    ],
    settings: WriteSettings,
    origin: dict[str, Any],
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Have a model write text, some of it chains of thought, for --text of scan, cut, patch and healing.

    Each row of the file has `text`: the prompt and the answer, as the model saw them. The prompts are used again, in
    another order, until there is enough. A run that was interrupted goes on with --resume.

    Example: prune write Qwen/Qwen3-8B --prompts questions.jsonl --tokens 200k --out own.jsonl
    """
    from prune.writing.write import write

    written = write(model, prompts, out, settings=settings, resume=resume, overwrite=overwrite, **origin)
    answer(written.to_json(), written.table, as_json=as_json)
    say_written(out, None)


def main() -> None:
    """Entry point of the console command."""
    app()
