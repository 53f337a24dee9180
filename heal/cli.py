"""`heal`: train back what a cut took, and merge. Each command is one public function away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from heal import options
from prune.errors import UsageError
from prune.processes import is_main
from prune.terminal import answer, make_app

app = make_app("heal", "Train back what a cut took.")


@app.command("qlora")
def qlora_command(
    model: options.Pruned,
    out: options.AdapterOut,
    text: options.Texts = None,
    field: options.Field = "text",
    held_out: options.HeldOuts = None,
    held_out_tokens: options.HeldOutTokens = "16k",
    domain_text: options.DomainTexts = None,
    tokens: options.Tokens = "2M",
    length: options.Length = 512,
    batch_size: options.BatchSize = 4,
    accumulate: options.Accumulate = 4,
    rank: options.Rank = 64,
    alpha: options.Alpha = None,
    dropout: options.Dropout = 0.05,
    learning_rate: options.LearningRate = 3e-4,
    schedule: options.Decay = "cosine",
    warmup: options.Warmup = None,
    targets: options.Targets = "feed-forward",
    bits: options.Bits = 4,
    seed: options.Seed = 0,
    eval_every: options.EvalEvery = None,
    patience: options.Patience = None,
    checkpointing: options.Checkpointing = True,
    device: options.Device = "auto",
    revision: options.Revision = None,
    resume: options.Resume = False,
    save_every: options.SaveEvery = 50,
    report_to: options.ReportTo = "none",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Heal a pruned model: a LoRA adapter on the model in 4 bits, trained on plain text.

    Writes adapter_config.json and adapter_model.safetensors (peft's format), heal.json (curve, speed, memory) and
    README.md. Held-out loss is in nats per token. A run that is killed, or stopped by Ctrl-C or SIGTERM, goes on with
    [bold]--resume[/bold], to the same adapter; several GPUs: docs/healing.md.

    Example: [bold]heal qlora runs/pruned --text prose.jsonl --tokens 2M --out runs/adapter[/bold]
    """
    from heal.settings import Running, Settings
    from heal.tables import curve
    from heal.training import qlora

    result = qlora(
        model,
        options.text_source(text, field, held_out, held_out_tokens, domain_text),
        out,
        tokens=tokens,
        settings=Settings(
            length=length,
            batch_size=batch_size,
            accumulate=accumulate,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            learning_rate=learning_rate,
            targets=targets,
            bits=bits,
            seed=seed,
            eval_every=eval_every,
            checkpointing=checkpointing,
            schedule=schedule,
            warmup=warmup,
            patience=patience,
        ),
        device=device,
        revision=revision,
        overwrite=overwrite,
        running=Running(resume, save_every, report_to),
    )
    if not is_main():
        return
    answer(result.document, lambda: curve(result.document, out), as_json=as_json)


@app.command("distill")
def distill_command(
    model: options.Pruned,
    teacher: options.Teacher,
    out: options.AdapterOut,
    text: options.Texts = None,
    field: options.Field = "text",
    held_out: options.HeldOuts = None,
    held_out_tokens: options.HeldOutTokens = "16k",
    domain_text: options.DomainTexts = None,
    tokens: options.Tokens = "2M",
    length: options.Length = 512,
    batch_size: options.BatchSize = 4,
    accumulate: options.Accumulate = 4,
    rank: options.Rank = 64,
    alpha: options.Alpha = None,
    dropout: options.Dropout = 0.05,
    learning_rate: options.LearningRate = 3e-4,
    schedule: options.Decay = "cosine",
    warmup: options.Warmup = None,
    targets: options.Targets = "feed-forward",
    bits: options.Bits = 4,
    seed: options.Seed = 0,
    eval_every: options.EvalEvery = None,
    patience: options.Patience = None,
    checkpointing: options.Checkpointing = True,
    temperature: Annotated[float, typer.Option(help="Softens both sides; the loss is multiplied by its square.")] = 1.0,
    plain_loss: Annotated[
        float, typer.Option(help="Share of the plain loss on the text itself, 0 to 1; the rest is divergence.")
    ] = 0.0,
    match_hidden: Annotated[
        float, typer.Option(help="Weight of the distance of hidden states behind the cut's first layer; 0: none.")
    ] = 0.0,
    teacher_data: Annotated[
        str, typer.Option(help="text: train on the text; self: on responses that the full model first writes.")
    ] = "text",
    prompts: Annotated[
        str | None, typer.Option(help="Source whose field `prompt` it answers; openings of --text if not named.")
    ] = None,
    response_tokens: Annotated[int, typer.Option(help="Longest response that it writes.")] = 256,
    device: options.Device = "auto",
    revision: options.Revision = None,
    resume: options.Resume = False,
    save_every: options.SaveEvery = 50,
    report_to: options.ReportTo = "none",
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Heal a pruned model by what the full one predicts: forward KL, both models on one copy of the weights.

    The full model is loaded once. With all its layers it is the teacher; with the cut ones left out and adapters on,
    the student, which is the pruned model to the bit (a patch in it counts). With [bold]--targets after-cut[/bold] what
    comes before the cut is run once for both, without a graph: cheaper, and the adapter is smaller.

    Writes what heal qlora writes. The losses of the curve's steps are divergences, held-out losses are plain ones.

    Example: [bold]heal distill runs/pruned --teacher owner/model --text prose.jsonl --out runs/adapter[/bold]
    """
    from heal.distilling import DistillSettings, distill
    from heal.settings import Running
    from heal.tables import curve

    result = distill(
        model,
        teacher,
        options.text_source(text, field, held_out, held_out_tokens, domain_text),
        out,
        tokens=tokens,
        settings=DistillSettings(
            length=length,
            batch_size=batch_size,
            accumulate=accumulate,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            learning_rate=learning_rate,
            targets=targets,
            bits=bits,
            seed=seed,
            eval_every=eval_every,
            checkpointing=checkpointing,
            schedule=schedule,
            warmup=warmup,
            patience=patience,
            temperature=temperature,
            plain_loss=plain_loss,
            match_hidden=match_hidden,
            teacher_data=teacher_data,
            prompts=prompts,
            response_tokens=response_tokens,
        ),
        device=device,
        revision=revision,
        overwrite=overwrite,
        running=Running(resume, save_every, report_to),
    )
    if not is_main():
        return
    answer(result.document, lambda: curve(result.document, out), as_json=as_json)


@app.command("patch")
def patch_command(
    model: options.Pruned,
    out: Annotated[Path, typer.Option(help="Folder for the patched model; must not exist.")],
    teacher: Annotated[
        str | None, typer.Option(help="The full model; where prune_plan.json says it was, if not named.")
    ] = None,
    text: options.Texts = None,
    field: options.Field = "text",
    held_out: options.HeldOuts = None,
    held_out_tokens: options.HeldOutTokens = "16k",
    tokens: Annotated[str, typer.Option(help="How much text to fit; a quarter more, 4096 at most, chooses.")] = "20k",
    objective: Annotated[
        str, typer.Option(help="What counts as near: auto, normalised, capped, cosine or squares.")
    ] = "auto",
    kind: Annotated[
        str, typer.Option(help="auto; matrix: all weights; map: a linear map of the output; magnitude: one number.")
    ] = "auto",
    ridge: Annotated[
        float | None, typer.Option(help="Pull to the old weights, 0 for none; the best of a ladder if not given.")
    ] = None,
    length: options.Length = 512,
    batch_size: options.BatchSize = 4,
    seed: Annotated[int, typer.Option(help="Order of the text.")] = 0,
    dtype: Annotated[str, typer.Option(help="To compute in: auto (the model's own), float32, bfloat16.")] = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Patch a cut in closed form: least squares, no training, an ordinary checkpoint.

    The last projection before the cut is changed so that the state which enters the cut comes near the one that left
    the dropped layers. The best of a few candidates is kept, by their loss on text apart; where none is better than no
    patch, nothing is written and the exit code is 1.

    Example: [bold]heal patch runs/pruned --teacher full --text prose.jsonl --out runs/patched[/bold]
    """
    from heal.patching import PatchSettings, patch
    from heal.tables import patched

    result = patch(
        model,
        teacher,
        options.text_source(text, field, held_out, held_out_tokens, None),
        out,
        tokens=tokens,
        settings=PatchSettings(objective, kind, ridge, length, batch_size, seed),
        device=device,
        dtype=dtype,
        revision=revision,
        overwrite=overwrite,
    )
    answer(result.document, lambda: patched(result.document, out), as_json=as_json)


@app.command("merge")
def merge_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that heal qlora or heal distill wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; must not exist.")],
    base: Annotated[
        str,
        typer.Option(
            help="dequantised: the weights the adapter was trained on; original: the base's own; auto: the better one."
        ),
    ] = "dequantised",
    model: Annotated[str | None, typer.Option(help="The base, where it has moved since.")] = None,
    only: Annotated[
        bool, typer.Option("--adapter-only", help="Write the cut and the healing as one adapter on the full model.")
    ] = False,
    full: Annotated[
        str | None, typer.Option(help="With --adapter-only: the full model, where it has moved since the cut.")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compare logits with those of the adapter as trained, on a few held-out rows.")
    ] = True,
    held_out: Annotated[
        str | None, typer.Option(help="Text to measure on; what the adapter was measured on if not named.")
    ] = None,
    field: Annotated[str, typer.Option(help="Field of each row of --held-out that holds the text.")] = "text",
    held_out_tokens: Annotated[str, typer.Option(help="How much of it --base auto measures on.")] = "16k",
    device: Annotated[str, typer.Option(help="What measures: auto, cpu, cuda, cuda:1, ...")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print heal.json on stdout, and nothing else there.")] = False,
) -> None:
    """Merge an adapter into its base: one ordinary checkpoint, in the base's dtype.

    An adapter trained in 4 bits was fitted to the quantised weights. So [bold]--base dequantised[/bold] saves every
    projection that was in 4 bits (attention too) as NF4 left it, plus the adapter: the trained function, in full
    precision. [bold]--base original[/bold] adds the adapter to the base's own weights: another function, whose
    held-out loss may be better or worse. [bold]--base auto[/bold] measures both and keeps the better.

    With [bold]--adapter-only[/bold] nothing is merged: the folder holds one small adapter that makes the healed pruned
    model of the full one, by peft's layer_replication.

    Example: [bold]heal merge runs/adapter --base auto --out runs/healed[/bold]
    """
    from heal.schedule import parse_tokens

    if only:
        from heal.shipping import adapter_only

        if base != "dequantised":
            raise UsageError("--base does not go with --adapter-only, which merges nothing")
        document = adapter_only(
            adapter, out, full=full, model=model, check=check, held_out=held_out, field=field, device=device,
            overwrite=overwrite,
        )  # fmt: skip
        facts = document["adapter_only"]
        shown = f"{out}: one adapter for {facts['full']['model']}: {facts['words']}; healed"
        answer(document, shown + _apart(facts), as_json=as_json)
        return
    if full is not None:
        raise UsageError("--full goes with --adapter-only; the base of a merge is named by --model")
    from heal.merging import merge

    document = merge(
        adapter, out, base=base, model=model, check=check, held_out=held_out, field=field,
        held_out_tokens=parse_tokens(held_out_tokens), device=device, overwrite=overwrite,
    )  # fmt: skip
    facts = document["merge"]
    shown = (
        f"{out}: {facts['adapted']} projections carry the adapter; {facts['dequantised']} saved as quantisation left "
        f"them; all else as in {document['base']['model']}"
    )
    if "chosen" in facts:
        losses = facts["chosen"]["losses"]
        shown += (
            f"\nkept the {facts['base']} base: held-out loss {losses['dequantised']:.4f} dequantised, "
            f"{losses['original']:.4f} original (nats per token, {facts['held_out']['tokens']:,} tokens)"
        )
    elif base == "auto":
        shown += "\nthe adapter was trained on the base's own weights: there is no other base to choose"
    answer(document, shown + _apart(facts), as_json=as_json)


def _apart(facts: dict[str, Any]) -> str:
    if "agreement" not in facts:
        return ""
    found = facts["agreement"]
    return (
        f"\nagainst the adapter as trained, on {found['tokens']} held-out tokens: KL {found['kl']:.2g} nats, logits "
        f"apart by {found['mean_abs']:.2g} in the mean and {found['max_abs']:.2g} at most"
    )


@app.command("budget")
def budget_command(
    model: Annotated[str, typer.Argument(help="The model before its cut, or one that is cut: a folder or a hub id.")],
    n: Annotated[int, typer.Option("--n", help="Layers that the cut will drop; 0 for a model that is cut.")] = 0,
    start: Annotated[
        int | None, typer.Option(help="Where the cut begins, 0-based; the deepest block that keeps the last layer.")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="A card of your own, such as 40GiB, reckoned at the speed of an A100.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Tokens to heal on; the paper's budget is 164M.")] = "164M",
    method: Annotated[str, typer.Option(help="qlora, or distill, which keeps the full model loaded.")] = "qlora",
    bits: Annotated[int, typer.Option(help="4: NF4, double quantised; 8: int8; 16: bf16.")] = 4,
    targets: Annotated[str, typer.Option(help="feed-forward, all, or after-cut.")] = "feed-forward",
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 64,
    dropout: Annotated[float, typer.Option(help="Dropout before the adapter.")] = 0.05,
    length: Annotated[int, typer.Option(help="Tokens per row.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = 4,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations anew.")] = True,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the budget as JSON, and nothing else there.")] = False,
) -> None:
    """Reckon what healing takes, before anything is loaded: memory, the largest batch, tokens per second, hours.

    Reads config.json and the headers of the weights; of a hub model no weights are fetched. Memory is counted tensor by
    tensor. Speed is an expectation: FLOPs over an assumed share of a card's peak.

    Example: [bold]heal budget meta-llama/Llama-3.1-70B --n 32 --gpu-memory 40GiB --tokens 30M[/bold]
    """
    from heal.budget_table import tables
    from heal.budgeting import plan_budget
    from heal.schedule import parse_tokens
    from prune.memory import parse_size

    found = plan_budget(
        model, n=n, start=start, tokens=parse_tokens(tokens), method=method, bits=bits, targets=targets, rank=rank,
        dropout=dropout, length=length, batch_size=batch_size, checkpointing=checkpointing,
        gpu_memory=None if gpu_memory is None else parse_size(gpu_memory, option="--gpu-memory"), revision=revision,
    )  # fmt: skip
    answer(found.to_json(), lambda: tables(found), as_json=as_json)


def main() -> None:
    """Entry point of the console command."""
    app()
