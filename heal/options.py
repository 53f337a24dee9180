"""The options of `heal`'s commands that are no fields of settings: the model, where results go, and text."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heal.choosing.record import TOKENS
from heal.ranking.settings import RankRun, RankSettings, Selection
from heal.settings import BudgetQuery, DistillSettings, Measuring, PatchRun, PatchSettings, Settings, TrainingRun
from prune.common.errors import UsageError
from prune.common.screen import wording
from prune.common.screen.options import Option, option_names, settings_options
from prune.common.sizes import parse_tokens

if TYPE_CHECKING:
    from heal.text.sources import TextSource

Pruned = Annotated[str, typer.Argument(metavar="MODEL", help=f"{wording.MODEL}: the pruned one.")]
Teacher = Annotated[
    str | None,
    typer.Option(
        help=f"{wording.MODEL} of the full one that it was cut from.", show_default="the one in prune_plan.json"
    ),
]
AdapterOut = Annotated[Path, typer.Option("--out", "-o", help="Folder for the adapter.")]

_text = partial(Option, panel="Text")


@dataclass(frozen=True)
class TextOptions:
    """Text as it is typed; `source` is what it says."""

    text: Annotated[
        list[str] | None,
        _text(
            f"What to heal on: {wording.SOURCE}; C4 from the hub if not given. Rows with `messages` are chats. Several "
            "times: mixed in equal shares."
        ),
    ] = None
    field: Annotated[str, _text(wording.FIELD)] = "text"
    mix: Annotated[
        str | None, _text("Share of each --text in its order, such as 0.7,0.3; they sum to 1. Equal if not given.")
    ] = None
    loss_on: Annotated[
        str, _text("Of chats, which tokens count in the loss: answers (what the assistant writes), or all.")
    ] = "answers"
    held_out: Annotated[
        list[str] | None,
        _text("Text to measure on, several times for several; one document in 50 of --text if not given."),
    ] = None
    held_out_tokens: Annotated[
        str | None,
        _text("Tokens of it to measure on, at most; if not given 16k, or in training a tenth of --tokens, 2k to 16k."),
    ] = None
    domain_text: Annotated[
        list[str] | None, _text("Further text to measure on, as NAME=FILE: medical=notes.jsonl; may be repeated.")
    ] = None

    def source(self) -> TextSource:
        """The text to heal and measure on, as the options name it.

        Raises:
            UsageError: a --domain-text that is not NAME=FILE, or names one twice; a --mix or --loss-on that is wrong.
        """
        from heal.text.sources import TextSource
        from prune.text.windows import DEFAULT_SOURCE

        domains = []
        for written in self.domain_text or []:
            name, _, source = written.partition("=")
            if not name or not source:
                raise UsageError(f"--domain-text {written}: write it as NAME=FILE")
            domains.append((name, source))
        if len(dict(domains)) < len(domains):
            raise UsageError("--domain-text: two texts have one name")
        text = TextSource(
            tuple(self.text or [DEFAULT_SOURCE]),
            self.field,
            tuple(self.held_out) if self.held_out else None,
            None if self.held_out_tokens is None else parse_tokens(self.held_out_tokens, option="--held-out-tokens"),
            tuple(domains),
            self.loss_on,
            _shares(self.mix),
        )
        text.check()
        return text


def _shares(written: str | None) -> tuple[float, ...] | None:
    if written is None:
        return None
    try:
        shares = tuple(float(share) for share in written.split(","))
    except ValueError:
        shares = (math.nan,)
    if not all(map(math.isfinite, shares)):
        raise UsageError(f"--mix {written}: write a share for each --text, such as 0.7,0.3")
    return shares


@dataclass(frozen=True)
class MergeOptions:
    """What `heal merge` writes: a merged model, or one adapter on the full model."""

    base: Annotated[
        str | None,
        Option(
            "dequantised: the weights the adapter was trained on; original: the base's own; auto: the better one.",
            shown="auto",
        ),
    ] = None
    model: Annotated[str | None, Option("The base, where it has moved since.")] = None
    adapter_only: Annotated[
        bool, Option("Write the cut and the healing as one adapter on the full model.", flag="--adapter-only")
    ] = False
    full: Annotated[str | None, Option("With --adapter-only: the full model, where it has moved since the cut.")] = None

    def check(self, measuring: Measuring) -> None:
        """Refuse options of a merge beside those of an adapter on the full model.

        Raises:
            UsageError: options that do not go together.
        """
        if self.adapter_only and self.base is not None:
            raise UsageError("--base does not go with --adapter-only, which merges nothing")
        if self.adapter_only and measuring.held_out_tokens is not None:
            raise UsageError("--held-out-tokens is for --base auto; --adapter-only is checked on a few rows")
        if self.adapter_only and measuring.max_memory is not None:
            raise UsageError("--max-memory does not go with --adapter-only, which loads the models it compares")
        if self.full is not None and not self.adapter_only:
            raise UsageError("--full goes with --adapter-only; for the base of a merge use --model")


def _source(**typed: Any) -> TextSource:
    return TextOptions(**typed).source()


_BUDGETED = ("bits", "targets", "rank", "dropout", "length", "batch_size", "checkpointing")
_AS_TYPED = {"checkpointing": "on"}
_PASSING = ("save_every", "report_to", "max_memory")  # of what a trial leaves, and a trial leaves nothing
_TRIAL_RUN = tuple(name for name in option_names(TrainingRun) if name not in _PASSING)
_PATCHED = ("text", "field", "loss_on", "held_out", "held_out_tokens")

TEXT = replace(settings_options(TextOptions), make=_source)
PATCH_TEXT = replace(settings_options(TextOptions, only=_PATCHED), make=_source)
RUN = settings_options(TrainingRun)
_trial = settings_options(TrainingRun, only=_TRIAL_RUN, defaults={"tokens": TOKENS})
FINALISTS_RUN = replace(_trial, make=lambda **typed: TrainingRun(**_trial.make(**typed)))
PATCH_RUN = settings_options(PatchRun)
SETTINGS = settings_options(Settings, defaults=_AS_TYPED)
DISTILL_SETTINGS = settings_options(DistillSettings, defaults=_AS_TYPED)
PATCH_SETTINGS = settings_options(PatchSettings)
MERGE = settings_options(MergeOptions)
MEASURING = settings_options(Measuring)
RANK = settings_options(
    RankSettings, defaults={"text": None, "domains": None, "methods": ",".join(RankSettings.methods)}
)
RANK_RUN = settings_options(RankRun)
SELECTION = settings_options(Selection)
BUDGET = settings_options(BudgetQuery)
_budgeted = settings_options(Settings, only=_BUDGETED, defaults=_AS_TYPED)
BUDGET_SETTINGS = replace(_budgeted, make=lambda **typed: Settings(**_budgeted.make(**typed)))
