"""The options of `prune`'s commands that are no fields of settings, and what becomes of results where they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prune.common.errors import UsageError
from prune.common.screen.options import Options
from prune.common.screen.terminal import Revision, screen
from prune.instruments.settings import HeadsSettings, spell_numbers

if TYPE_CHECKING:
    from prune.choosing.settings import CutSettings, FitSettings
    from prune.common.files.artefact import Artefact
    from prune.common.files.resume import Unfinished

Texts = list[str] | None
ORIGIN = Options(
    dict,
    {
        "revision": Revision,
        "trust_remote_code": Annotated[
            bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
        ],
    },
    {"revision": None, "trust_remote_code": False},
)
LISTS = {"lengths": spell_numbers(HeadsSettings.lengths), "top": spell_numbers(HeadsSettings.top)}  # as typed
WHICH = Options(
    dict,
    {
        "n": Annotated[int | None, typer.Option(help="How many layers to drop.")],
        "start": Annotated[int | None, typer.Option(help="First layer of the block, 0-based.")],
        "layers": Annotated[str | None, typer.Option(help="Layers to drop, 0-based, ends included: 3,7,20-24.")],
        "scan": Annotated[Path | None, typer.Option(help="scan.json of this model, from `prune scan`.")],
        "text": Annotated[
            Texts,
            typer.Option(
                help="Text to scan on, and to check the choice on; may be given more than once.",
                show_default="the scan's own, or C4 from the hub",
            ),
        ],
    },
    dict.fromkeys(["n", "start", "layers", "scan", "text"]),
)


def check_svg(plot: Path | None, what: str) -> None:
    """Refuse a figure that is to be something else than SVG; `what` with its verb."""
    if plot is not None and plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot {plot}: {what} an .svg file; give it that ending")


def check_written(
    model: str, texts: Sequence[str] | None, outputs: Mapping[str, Path | None], *read: Path | None, overwrite: bool
) -> None:
    """Refuse files to be written, by option, that stand there already, or that the command reads.

    Args:
        texts: SOURCEs of text.
        read: files.
    """
    from prune.checkpoint.companions import model_files
    from prune.common.files.outputs import check_files_apart, free_file
    from prune.text.documents import local_files

    for option, out in outputs.items():
        if out is not None:
            free_file(out, overwrite=overwrite, option=option)
    check_files_apart(outputs, *model_files(model), *local_files(texts or ()), *read)


def check_cut_apart(out: Path, model: str, which: Mapping[str, Any], fit: FitSettings, settings: CutSettings) -> None:
    """Refuse the folder of a cut that holds what the cut reads: also the text that its scan was made on."""
    from prune.common.files.outputs import check_apart
    from prune.text.documents import local_files

    scan, texts = which["scan"], which["text"]
    check_apart(out, model, scan, *fit.files_read, *settings.files_read, *local_files(texts or ()))
    if scan is not None and scan.is_file() and not texts:
        from prune.choosing.trial import scanned_texts
        from prune.scanning.result import Scan

        check_apart(out, *local_files(text["source"] for text in scanned_texts(Scan.read(scan))))


def write_measured(
    measured: Artefact, figure: bytes, out: Path, plot: Path | None, unfinished: Unfinished, *, overwrite: bool
) -> None:
    """Write what was measured, with its figure where one was asked for, or neither; then let the kept work go."""
    from prune.common.files.outputs import json_text, write_files

    files = {out: json_text(measured.to_json()).encode("utf-8")}
    if plot is not None:
        files[plot] = figure
    write_files(files, overwrite=overwrite)
    unfinished.clear()


def say_written(out: Path, plot: Path | None) -> None:
    """One line that names the files."""
    screen().print(f"Wrote {out}" + (f" and {plot}" if plot is not None else ""))
