"""`heal`: train back what a cut took, and merge. Each command is one public function away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heal import options
from heal.choosing.record import FINALISTS
from prune.common.machine.processes import is_main
from prune.common.screen import wording
from prune.common.screen.options import takes
from prune.common.screen.terminal import AsJson, Overwrite, Revision, answer, make_app, screen

if TYPE_CHECKING:
    from heal.ranking.settings import RankRun, RankSettings, Selection
    from heal.settings import BudgetQuery, DistillSettings, Measuring, PatchRun, PatchSettings, Settings, TrainingRun
    from heal.text.sources import TextSource

app = make_app("heal", "Train back what a cut took.")


@app.command("qlora")
@takes(text=options.TEXT, run=options.RUN, settings=options.SETTINGS)
def qlora_command(
    model: options.Pruned,
    out: options.AdapterOut,
    text: TextSource,
    run: TrainingRun,
    settings: Settings,
    as_json: AsJson = False,
) -> None:
    """Heal a pruned model: a LoRA adapter on the model in 4 bits, trained on plain text.

    Writes adapter_config.json and adapter_model.safetensors (peft's format), heal.json (curve, speed, memory) and
    README.md. Held-out loss is in nats per token. A run that is killed, or stopped by Ctrl-C or SIGTERM, goes on with
    [bold]--resume[/bold], to the same adapter; several GPUs: docs/many-gpus.md.

    Example: [bold]heal qlora runs/pruned --text prose.jsonl --tokens 2M --out runs/adapter[/bold]
    """
    from heal.tables import curve
    from heal.training.qlora import qlora

    result = qlora(model, text, out, settings=settings, run=run)
    if is_main():
        answer(result.to_json(), lambda: curve(result), as_json=as_json)


@app.command("distill")
@takes(text=options.TEXT, run=options.RUN, settings=options.DISTILL_SETTINGS)
def distill_command(
    model: options.Pruned,
    *,
    teacher: options.Teacher = None,
    out: options.AdapterOut,
    text: TextSource,
    run: TrainingRun,
    settings: DistillSettings,
    as_json: AsJson = False,
) -> None:
    """Heal a pruned model by what the full one predicts: forward KL, both models on one copy of the weights.

    The full model is loaded once. With all its layers it is the teacher. Without the dropped layers, and with
    adapters, it is the student, which equals the pruned model to the bit (also a patched one). With
    [bold]--targets after-cut[/bold] the layers before the cut run once for both: cheaper, and the adapter is smaller.

    Writes what heal qlora writes. The losses of the curve's steps are divergences, held-out losses are plain ones.

    Example: [bold]heal distill runs/pruned --teacher owner/model --text prose.jsonl --out runs/adapter[/bold]
    """
    from heal.tables import curve
    from heal.training.distill import distill

    result = distill(model, teacher, text, out, settings=settings, run=run)
    if is_main():
        answer(result.to_json(), lambda: curve(result), as_json=as_json)


@app.command("finalists")
@takes(text=options.TEXT, run=options.FINALISTS_RUN, settings=options.DISTILL_SETTINGS)
def finalists_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"{wording.MODEL}: what prune cut --check wrote, whose plan names the finalists."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pruned model that is taken.")],
    teacher: options.Teacher = None,
    finalists: Annotated[int, typer.Option(help="How many are healed at most, those of least KL first.")] = FINALISTS,
    text: TextSource,
    run: TrainingRun,
    settings: DistillSettings,
    as_json: AsJson = False,
) -> None:
    """Heal each finalist of a cut's check on a few thousand tokens, and take the cut that heals best.

    The check ranks cuts before healing, and healing may change the ranking. Each finalist is cut and healed as heal
    distill does it, one after the other; --out is the pruned model of least held-out loss, without the healing.

    Example: [bold]heal finalists runs/pruned --teacher full --text prose.jsonl --tokens 4k --out runs/chosen[/bold]
    """
    from heal.choosing.finalists import choose_healed

    chosen = choose_healed(model, teacher, text, out, finalists=finalists, settings=settings, run=run)
    answer(chosen.to_json(), chosen.table, as_json=as_json)


@app.command("patch")
@takes(text=options.PATCH_TEXT, run=options.PATCH_RUN, settings=options.PATCH_SETTINGS)
def patch_command(
    model: options.Pruned,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the patched model.")],
    teacher: options.Teacher = None,
    pass_over: Annotated[
        bool,
        typer.Option(
            "--pass-over", help="Where the model takes no patch, or none is better, write the cut as it is and say so."
        ),
    ] = False,
    text: TextSource,
    run: PatchRun,
    settings: PatchSettings,
    as_json: AsJson = False,
) -> None:
    """Patch a cut in closed form: least squares, no training, an ordinary checkpoint.

    The last projection before the cut is changed so that its layer outputs nearly what the dropped layers would have
    output. The best of a few candidates is kept, by its loss on text that was not fitted. Where none is better than no
    patch, nothing is written and the exit code is 1; with [bold]--pass-over[/bold] the cut is written as it is.

    Example: [bold]heal patch runs/pruned --teacher full --text prose.jsonl --out runs/patched[/bold]
    """
    from heal.patching.passing import NoPatchError, leave_as_cut
    from heal.patching.patch import patch
    from heal.tables import patched

    try:
        result = patch(model, teacher, text, out, settings=settings, run=run)
    except NoPatchError as error:
        if not pass_over:
            raise
        passed = leave_as_cut(model, out, why=str(error), revision=run.revision, overwrite=run.overwrite)
        answer(passed.to_json(), passed.words, as_json=as_json)
        return
    answer(result.to_json(), lambda: patched(result), as_json=as_json)


@app.command("rank")
@takes(settings=options.RANK, selection=options.SELECTION, run=options.RANK_RUN)
def rank_command(
    model: options.Pruned,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where rank.json goes.")],
    settings: RankSettings,
    selection: Selection,
    run: RankRun,
    as_json: AsJson = False,
) -> None:
    """Rank the documents of a pool by what each would do for a domain's answers, before any healing.

    By gradient: a fresh adapter is warmed up on a part of the pool. A document's score is the cosine between the step
    that an optimiser would make on it and the gradient of an answer's loss, LoRA weights alone. BM25 and random scores
    stand beside it: a ranking that is no better than these has found nothing.

    With [bold]--select 10% --select-out picked.jsonl[/bold] the best documents are written for heal qlora --text. The
    questions that rank are those that the seed draws last: judge with evaluate --limit, which takes the first.

    Example: [bold]heal rank pruned --text pool.jsonl --data questions --domains medical,math --out rank.json[/bold]
    """
    from heal.ranking.rank import rank
    from heal.ranking.showing import rank_tables

    result = rank(model, out, settings=settings, selection=selection, run=run)
    answer(result.to_json(), lambda: rank_tables(result.ranking), as_json=as_json)
    screen().print("Wrote " + " and ".join(map(str, filter(None, (out, selection.select_out, run.plot)))))


@app.command("merge")
@takes(merging=options.MERGE, measuring=options.MEASURING)
def merge_command(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder that heal qlora or heal distill wrote.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the merged model.")],
    merging: options.MergeOptions,
    measuring: Measuring,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Merge an adapter into its base: one ordinary checkpoint, in the base's dtype.

    An adapter trained in 4 bits was fitted to the quantised weights. [bold]--base dequantised[/bold] saves every
    projection that was in 4 bits (attention too) as NF4 left it, plus the adapter: the trained function, in full
    precision. [bold]--base original[/bold] adds the adapter to the base's own weights: another function, whose
    held-out loss may be better or worse. [bold]--base auto[/bold], the default, measures both on the text that the
    adapter was measured on, and keeps the better. Where that text is gone it goes by the losses that heal.json has.

    With [bold]--adapter-only[/bold] nothing is merged: the folder holds one small adapter that turns the full
    model into the healed pruned one, by peft's layer_replication.

    Example: [bold]heal merge runs/adapter --out runs/healed[/bold]
    """
    merging.check(measuring)
    from heal.merging.adapter_only import adapter_only
    from heal.merging.merge import merge
    from heal.tables import merged, shipped

    how: dict[str, Any] = {"model": merging.model, "measuring": measuring, "overwrite": overwrite}
    if merging.adapter_only:
        result = adapter_only(adapter, out, full=merging.full, **how)
    else:
        result = merge(adapter, out, base=merging.base or "auto", **how)
    answer(result.to_json(), lambda: (shipped if merging.adapter_only else merged)(result), as_json=as_json)


@app.command("budget")
@takes(query=options.BUDGET, settings=options.BUDGET_SETTINGS)
def budget_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{wording.MODEL}: before its cut, or cut already.")],
    *,
    query: BudgetQuery,
    settings: Settings,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Estimate what healing and the chain around it take, before anything is loaded: memory, disk, hours, by card.

    Reads config.json and the headers of the weights; of a hub model no weights are fetched. Memory is counted tensor by
    tensor. Hours are an expectation: FLOPs over an assumed share of a card's peak. Each command from scan to sweep has
    a line that says how it runs on the card: resident, in 4 bits, or layer by layer.

    Example: [bold]heal budget meta-llama/Llama-3.1-70B --n 32 --card H100 --tokens 30M[/bold]
    """
    from heal.budget.plan import plan_budget
    from heal.budget.table import tables

    budget = plan_budget(model, query, settings, revision=revision)
    answer(budget.to_json(), lambda: tables(budget), as_json=as_json)


def main() -> None:
    app()
