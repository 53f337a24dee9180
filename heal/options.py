"""The options of `heal`'s commands that are no fields of settings: the model, where results go, and text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heal.settings import BudgetQuery, DistillSettings, Measuring, PatchRun, PatchSettings, Settings, TrainingRun
from prune.common.errors import UsageError
from prune.common.options import Options, panel, settings_options

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

    domains = []
    for written in domain_text or []:
        name, _, source = written.partition("=")
        if not name or not source:
            raise UsageError(f"--domain-text {written}: write it as NAME=FILE")
        domains.append((name, source))
    if len(dict(domains)) < len(domains):
        raise UsageError("--domain-text: two texts have one name")
    return TextSource(
        tuple(text) if text else DEFAULT_SOURCE,
        field,
        tuple(held_out) if held_out else None,
        None if held_out_tokens is None else parse_tokens(held_out_tokens),
        tuple(domains),
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
_BUDGETED = ("bits", "targets", "rank", "dropout", "length", "batch_size", "checkpointing")

TEXT = Options(_text_source, _TEXT)
PATCH_TEXT = Options(_text_source, {name: kind for name, kind in _TEXT.items() if name != "domain_text"})
RUN = settings_options(TrainingRun)
PATCH_RUN = settings_options(PatchRun)
SETTINGS = settings_options(Settings)
DISTILL_SETTINGS = settings_options(DistillSettings)
PATCH_SETTINGS = settings_options(PatchSettings)
MEASURING = settings_options(Measuring)
BUDGET = settings_options(BudgetQuery)
BUDGET_SETTINGS = replace(settings_options(Settings, only=_BUDGETED), make=Settings)
