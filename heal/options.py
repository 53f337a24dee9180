"""The options of `heal`'s commands that more than one takes, or that make up settings, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.settings import DistillSettings, PatchSettings, Running, Settings
from prune.common.errors import UsageError
from prune.common.options import Options, defaults_of, panel
from prune.models.precision import HELP as DTYPES

if TYPE_CHECKING:
    from heal.text.sources import TextSource

Pruned = Annotated[str, typer.Argument(help="The pruned model: a folder or a hub id.")]
AdapterOut = Annotated[Path, typer.Option(help="Folder for the adapter; must not exist.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print heal.json on stdout, and nothing else there.")]

_Texts = list[str] | None


def _text_source(
    text: _Texts = None,
    field: str = "text",
    held_out: _Texts = None,
    held_out_tokens: str | None = None,
    domain_text: _Texts = None,
) -> TextSource:
    """What the options on text say together.

    Raises:
        UsageError: a --domain-text that is not NAME=FILE, or names one twice.
    """
    from heal.text.sources import TextSource
    from prune.common.sizes import parse_tokens
    from prune.text.windows import DEFAULT_SOURCE

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
        None if held_out_tokens is None else parse_tokens(held_out_tokens),
        tuple((parts[0], parts[1]) for parts in domains),
    )


_TEXT = panel(
    "Text",
    {
        "text": Annotated[
            _Texts,
            typer.Option(
                help="What to heal on: .txt, .jsonl, .parquet, a folder, or hub:repo:config:split; C4 if not named. "
                "Several times: mixed in equal shares."
            ),
        ],
        "field": Annotated[str, typer.Option(help="Field of each row that holds the text.")],
        "held_out": Annotated[
            _Texts,
            typer.Option(
                help="Text to measure on, several times for several; one document in 50 of --text if not named."
            ),
        ],
        "held_out_tokens": Annotated[
            str | None,
            typer.Option(
                help="How much of it to measure on; if not given, 16k, or a tenth of --tokens where a run has few."
            ),
        ],
        "domain_text": Annotated[
            _Texts, typer.Option(help="Text measured besides, as NAME=FILE: medical=notes.jsonl; may be repeated.")
        ],
    },
)
_BATCH = {
    "length": Annotated[int, typer.Option(help="Tokens per row; documents are packed, and do not see one another.")],
    "batch_size": Annotated[int, typer.Option(help="Rows per forward pass.")],
}
_STEP = {
    "length": Annotated[
        int | None,
        typer.Option(
            help="Tokens per row; documents are packed, and do not see one another. Follows from --tokens if not given."
        ),
    ],
    "batch_size": Annotated[
        int | None, typer.Option(help="Rows per forward pass. Follows from --tokens if not given.")
    ],
}
_TRAINING = panel(
    "Training",
    {
        **_STEP,
        "accumulate": Annotated[
            int | None, typer.Option(help="Forward passes per step. Follows from --tokens if not given.")
        ],
        "learning_rate": Annotated[
            float | None, typer.Option(help="Peak rate, reached after the warm-up. Follows from --tokens if not given.")
        ],
        "schedule": Annotated[str, typer.Option(help="How the rate falls: cosine, linear or constant.")],
        "warmup": Annotated[
            str | None,
            typer.Option(help="Steps in which the rate rises, such as 100 or 3%; the fewer of both if not given."),
        ],
        "seed": Annotated[int, typer.Option(help="Order of the text, first weights, dropout.")],
        "eval_every": Annotated[
            int | None, typer.Option(help="Steps between measurements; a tenth of all if not given.")
        ],
        "patience": Annotated[
            int | None,
            typer.Option(
                help="End after so many measurements without a better loss, and keep the best adapter, not the last."
            ),
        ],
        "checkpointing": Annotated[bool, typer.Option(help="Trade time for memory: compute activations anew.")],
    },
)
_ADAPTER = panel(
    "Adapter",
    {
        "rank": Annotated[int, typer.Option(help="LoRA rank; the paper's is 64 for most models, 2 to 8 for some.")],
        "alpha": Annotated[float | None, typer.Option(help="LoRA alpha; the rank if not given.")],
        "dropout": Annotated[float, typer.Option(help="Dropout before the adapter.")],
        "targets": Annotated[
            str,
            typer.Option(
                help="Which projections to adapt: all or feed-forward; all of the layers after the cut: after-cut; "
                "both: feed-forward:after-cut."
            ),
        ],
        "bits": Annotated[int, typer.Option(help="4: NF4, double quantised; 8: LLM.int8(); 16: not quantised.")],
        "dtype": Annotated[
            str, typer.Option(help="Of the products: bfloat16, float32, or auto: bfloat16 where the device has it.")
        ],
    },
)
_DISTILLATION = panel(
    "Distillation",
    {
        "temperature": Annotated[float, typer.Option(help="Softens both sides; the loss is multiplied by its square.")],
        "plain_loss": Annotated[
            float, typer.Option(help="Share of the plain loss on the text itself, 0 to 1; the rest is divergence.")
        ],
        "match_hidden": Annotated[
            float, typer.Option(help="Weight of the distance of hidden states behind the cut's first layer; 0: none.")
        ],
        "teacher_data": Annotated[
            str, typer.Option(help="text: train on the text; self: on responses that the full model first writes.")
        ],
        "prompts": Annotated[
            str | None, typer.Option(help="Source whose field `prompt` it answers; openings of --text if not named.")
        ],
        "response_tokens": Annotated[int, typer.Option(help="Longest response that it writes.")],
    },
)
_PATCH = panel(
    "Patch",
    {
        "objective": Annotated[str, typer.Option(help="What counts as near: auto, normalised, capped or cosine.")],
        "kind": Annotated[
            str,
            typer.Option(help="auto; matrix: all weights; map: a linear map of the output."),
        ],
        "ridge": Annotated[
            float | None, typer.Option(help="Pull to the old weights, 0 for none; the best of a ladder if not given.")
        ],
        **_BATCH,
        "seed": Annotated[int, typer.Option(help="Order of the text.")],
    },
)
_RUNNING = panel(
    "Running",
    {
        "resume": Annotated[
            bool,
            typer.Option(
                "--resume", help="Go on from the last checkpoint of a run into --out; begin if there is none."
            ),
        ],
        "save_every": Annotated[
            int, typer.Option(help="Steps between checkpoints, which stand hidden beside --out meanwhile.")
        ],
        "report_to": Annotated[str, typer.Option(help="wandb, trackio, tensorboard or none.")],
    },
)
_BUDGET = panel(
    "Healing",
    {
        "bits": Annotated[int, typer.Option(help="4: NF4, double quantised; 8: int8; 16: not quantised.")],
        "targets": Annotated[str, typer.Option(help="all, feed-forward, or after-cut.")],
        "rank": Annotated[int, typer.Option(help="LoRA rank.")],
        "dropout": Annotated[float, typer.Option(help="Dropout before the adapter.")],
        "length": Annotated[int | None, typer.Option(help="Tokens per row. Follows from --tokens if not given.")],
        "batch_size": Annotated[
            int | None, typer.Option(help="Rows per forward pass. Follows from --tokens if not given.")
        ],
        "checkpointing": Annotated[bool, typer.Option(help="Compute activations anew.")],
    },
)
# What a run takes beside its settings, by the names of the functions' parameters.
_TOKENS = Annotated[str, typer.Option(help="Budget, such as 60k, 2M or 164M.")]
_FITTED = Annotated[str, typer.Option(help="How much text to fit; a quarter more, 4096 at most, chooses.")]
_DTYPE = Annotated[str, typer.Option(help=f"To compute in: {DTYPES}")]
_PLACE = {
    "device": Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")],
    "revision": Revision,
    "overwrite": Overwrite,
}
_ANY_PLACE = {"device": "auto", "revision": None, "overwrite": False}

TEXT = Options(_text_source, _TEXT)
RUN = Options(dict, {**panel("Training", {"tokens": _TOKENS}), **_PLACE}, {"tokens": "2M", **_ANY_PLACE})
SETTINGS = Options(Settings, {**_TRAINING, **_ADAPTER})
DISTILL_SETTINGS = Options(DistillSettings, {**_TRAINING, **_ADAPTER, **_DISTILLATION})
RUNNING = Options(Running, _RUNNING)
PATCH_TEXT = Options(_text_source, {name: kind for name, kind in _TEXT.items() if name != "domain_text"})
PATCH_RUN = Options(
    dict,
    {**panel("Patch", {"tokens": _FITTED}), "dtype": _DTYPE, **_PLACE},
    {"tokens": "20k", "dtype": "auto", **_ANY_PLACE},
)
PATCH_SETTINGS = Options(PatchSettings, _PATCH)
BUDGET_SETTINGS = Options(dict, _BUDGET, defaults_of(Settings))
