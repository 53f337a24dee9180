"""`heal`: train back what a cut took, and merge. Each command is one public function away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.terminal import answer, make_app

if TYPE_CHECKING:
    from rich.table import Table

app = make_app("heal", "Train back what a cut took.")


@app.command("qlora")
def qlora_command(
    model: Annotated[str, typer.Argument(help="The pruned model: a folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter; must not exist.")],
    text: Annotated[
        str | None,
        typer.Option(
            help="What to heal on: .txt, .jsonl, .parquet, a folder, or hub:repo:config:split; C4 if not named."
        ),
    ] = None,
    field: Annotated[str, typer.Option(help="Field of each row that holds the text.")] = "text",
    held_out: Annotated[
        str | None, typer.Option(help="Text to measure on; one document in 50 of --text if not named.")
    ] = None,
    held_out_tokens: Annotated[str, typer.Option(help="How much of it to measure on.")] = "16k",
    tokens: Annotated[str, typer.Option(help="Budget, such as 60k, 2M or 164M.")] = "2M",
    length: Annotated[
        int, typer.Option(help="Tokens per row; documents are packed, and do not see one another.")
    ] = 512,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = 4,
    accumulate: Annotated[int, typer.Option(help="Forward passes per step.")] = 4,
    rank: Annotated[int, typer.Option(help="LoRA rank; the paper's is 64 for most models, 2 to 8 for some.")] = 64,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha; the rank if not given.")] = None,
    dropout: Annotated[float, typer.Option(help="Dropout before the adapter.")] = 0.05,
    learning_rate: Annotated[float, typer.Option(help="Peak rate; cosine, warm-up of 100 steps or 3 %.")] = 3e-4,
    targets: Annotated[str, typer.Option(help="Which projections to adapt: feed-forward or all.")] = "feed-forward",
    bits: Annotated[int, typer.Option(help="4: NF4, double quantised; 16: bf16.")] = 4,
    seed: Annotated[int, typer.Option(help="Order of the text, first weights, dropout.")] = 0,
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between measurements; a tenth of all if not given.")
    ] = None,
    checkpointing: Annotated[bool, typer.Option(help="Trade time for memory: compute activations anew.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print heal.json on stdout, and nothing else there.")] = False,
) -> None:
    """Heal a pruned model: a LoRA adapter on the model in 4 bits, trained on plain text.

    Writes adapter_config.json and adapter_model.safetensors (peft's format), heal.json (curve, speed, memory) and
    README.md. Held-out loss is in nats per token.

    Example: [bold]heal qlora runs/pruned --text prose.jsonl --tokens 2M --out runs/adapter[/bold]
    """
    from heal.data import TextSource
    from heal.schedule import parse_tokens
    from heal.training import Settings, qlora
    from prune.text import DEFAULT_SOURCE

    result = qlora(
        model,
        TextSource(text or DEFAULT_SOURCE, field, held_out, parse_tokens(held_out_tokens)),
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
        ),
        device=device,
        revision=revision,
        overwrite=overwrite,
    )
    answer(result.document, lambda: _curve(result.document, out), as_json=as_json)


@app.command("merge")
def merge_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that heal qlora wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; must not exist.")],
    base: Annotated[
        str, typer.Option(help="dequantised: the weights the adapter was trained on; original: the base's own.")
    ] = "dequantised",
    model: Annotated[str | None, typer.Option(help="The base, where it has moved since.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print heal.json on stdout, and nothing else there.")] = False,
) -> None:
    """Merge an adapter into its base: one ordinary checkpoint, in the base's dtype.

    An adapter trained in 4 bits was fitted to the quantised weights. So [bold]--base dequantised[/bold] saves every
    projection that was in 4 bits (attention too) as NF4 left it, plus the adapter: the trained function, in full
    precision. [bold]--base original[/bold] adds the adapter to the base's own weights: another function, whose
    held-out loss may be better or worse.

    Example: [bold]heal merge runs/adapter --out runs/healed[/bold]
    """
    from heal.merging import merge

    document = merge(adapter, out, base=base, model=model, overwrite=overwrite)
    facts = document["merge"]
    shown = (
        f"{out}: {facts['adapted']} projections carry the adapter; "
        f"{facts['dequantised']} saved as NF4 left them; all else as in {document['base']['model']}"
    )
    answer(document, shown, as_json=as_json)


def _curve(document: dict[str, Any], out: Path) -> Table:
    from rich.table import Table

    loss, peak = document["held_out_loss"], document["peak_memory"]
    caption = (
        f"{out}: held-out loss {loss['before']:.3f} -> {loss['after']:.3f}; {document['tokens']:,} tokens at "
        f"{document['tokens_per_second']:.0f} a second; peak memory {peak['resident_bytes'] / 2**30:.1f} GiB resident"
    )
    if "cuda_bytes" in peak:
        caption += f", {peak['cuda_bytes'] / 2**30:.1f} GiB on the GPU"
    table = Table(title="Healing: loss in nats per token", caption=caption)
    for name in ("step", "tokens", "training loss", "held-out loss"):
        table.add_column(name, justify="right")
    for point in document["curve"]:
        trained = "" if point["loss"] is None else f"{point['loss']:.4f}"
        table.add_row(str(point["step"]), f"{point['tokens']:,}", trained, f"{point['held_out_loss']:.4f}")
    return table


def main() -> None:
    """Entry point of the console command."""
    app()
