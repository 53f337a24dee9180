"""Options that more than one command takes, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune.errors import UsageError

if TYPE_CHECKING:
    from heal.data import TextSource

Pruned = Annotated[str, typer.Argument(help="The pruned model: a folder or a hub id.")]
Teacher = Annotated[str, typer.Option(help="The full model that it was cut from: a folder or a hub id.")]
AdapterOut = Annotated[Path, typer.Option(help="Folder for the adapter; must not exist.")]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help="What to heal on: .txt, .jsonl, .parquet, a folder, or hub:repo:config:split; C4 if not named. Several "
        "times: mixed in equal shares.",
    ),
]
Field = Annotated[str, typer.Option(help="Field of each row that holds the text.")]
HeldOuts = Annotated[
    list[str] | None,
    typer.Option(
        "--held-out", help="Text to measure on, several times for several; one document in 50 of --text if not named."
    ),
]
HeldOutTokens = Annotated[str, typer.Option(help="How much of it to measure on.")]
DomainTexts = Annotated[
    list[str] | None,
    typer.Option("--domain-text", help="Text measured besides, as NAME=FILE: medical=notes.jsonl; may be repeated."),
]
Tokens = Annotated[str, typer.Option(help="Budget, such as 60k, 2M or 164M.")]
Length = Annotated[int, typer.Option(help="Tokens per row; documents are packed, and do not see one another.")]
BatchSize = Annotated[int, typer.Option(help="Rows per forward pass.")]
Accumulate = Annotated[int, typer.Option(help="Forward passes per step.")]
Rank = Annotated[int, typer.Option(help="LoRA rank; the paper's is 64 for most models, 2 to 8 for some.")]
Alpha = Annotated[float | None, typer.Option(help="LoRA alpha; the rank if not given.")]
Dropout = Annotated[float, typer.Option(help="Dropout before the adapter.")]
LearningRate = Annotated[float, typer.Option(help="Peak rate, reached after the warm-up.")]
Decay = Annotated[str, typer.Option("--schedule", help="How the rate falls: cosine, linear or constant.")]
Warmup = Annotated[
    str | None, typer.Option(help="Steps in which the rate rises, such as 100 or 3%; the fewer of both if not given.")
]
Patience = Annotated[
    int | None,
    typer.Option(help="End after so many measurements without a better loss, and keep the best adapter, not the last."),
]
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
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint of a run into --out; begin if there is none.")
]
SaveEvery = Annotated[int, typer.Option(help="Steps between checkpoints, which stand hidden beside --out meanwhile.")]
ReportTo = Annotated[str, typer.Option(help="wandb, trackio, tensorboard or none.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print heal.json on stdout, and nothing else there.")]


def text_source(
    text: list[str] | None, field: str, held_out: list[str] | None, held_out_tokens: str, domain_text: list[str] | None
) -> TextSource:
    """What the options on text say together.

    Raises:
        UsageError: a --domain-text that is not NAME=FILE, or names one twice.
    """
    from heal.data import TextSource
    from heal.schedule import parse_tokens
    from prune.text import DEFAULT_SOURCE

    domains = [tuple(written.split("=", 1)) for written in domain_text or []]
    for written, parts in zip(domain_text or [], domains, strict=True):
        if len(parts) != 2 or not all(parts):
            raise UsageError(f"--domain-text {written}: write it as NAME=FILE")
    if len({parts[0] for parts in domains}) < len(domains):
        raise UsageError("--domain-text: two texts have one name")
    one = text[0] if text and len(text) == 1 else tuple(text or ())
    measured = held_out[0] if held_out and len(held_out) == 1 else tuple(held_out or ())
    return TextSource(
        one or DEFAULT_SOURCE,
        field,
        measured or None,
        parse_tokens(held_out_tokens),
        tuple((parts[0], parts[1]) for parts in domains),
    )
