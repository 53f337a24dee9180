"""Options that more than one command takes, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Pruned = Annotated[str, typer.Argument(help="The pruned model: a folder or a hub id.")]
Teacher = Annotated[str, typer.Option(help="The full model that it was cut from: a folder or a hub id.")]
AdapterOut = Annotated[Path, typer.Option(help="Folder for the adapter; must not exist.")]
Text = Annotated[
    str | None,
    typer.Option(help="What to heal on: .txt, .jsonl, .parquet, a folder, or hub:repo:config:split; C4 if not named."),
]
Field = Annotated[str, typer.Option(help="Field of each row that holds the text.")]
HeldOut = Annotated[str | None, typer.Option(help="Text to measure on; one document in 50 of --text if not named.")]
HeldOutTokens = Annotated[str, typer.Option(help="How much of it to measure on.")]
Tokens = Annotated[str, typer.Option(help="Budget, such as 60k, 2M or 164M.")]
Length = Annotated[int, typer.Option(help="Tokens per row; documents are packed, and do not see one another.")]
BatchSize = Annotated[int, typer.Option(help="Rows per forward pass.")]
Accumulate = Annotated[int, typer.Option(help="Forward passes per step.")]
Rank = Annotated[int, typer.Option(help="LoRA rank; the paper's is 64 for most models, 2 to 8 for some.")]
Alpha = Annotated[float | None, typer.Option(help="LoRA alpha; the rank if not given.")]
Dropout = Annotated[float, typer.Option(help="Dropout before the adapter.")]
LearningRate = Annotated[float, typer.Option(help="Peak rate; cosine, warm-up of 100 steps or 3 %.")]
Targets = Annotated[
    str,
    typer.Option(
        help="Which projections to adapt: feed-forward or all; all of the layers after the cut: after-cut; both: "
        "feed-forward:after-cut."
    ),
]
Bits = Annotated[int, typer.Option(help="4: NF4, double quantised; 8: LLM.int8(); 16: bf16.")]
Seed = Annotated[int, typer.Option(help="Order of the text, first weights, dropout.")]
EvalEvery = Annotated[int | None, typer.Option(help="Steps between measurements; a tenth of all if not given.")]
Checkpointing = Annotated[bool, typer.Option(help="Trade time for memory: compute activations anew.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print heal.json on stdout, and nothing else there.")]
