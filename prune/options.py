"""The options of `prune`'s commands that are no fields of settings, and what becomes of results where they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prune.common.errors import UsageError
from prune.common.screen.options import Options
from prune.common.screen.terminal import Revision, screen
from prune.instruments.settings import HeadsSettings, spell_numbers

if TYPE_CHECKING:
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


def check_svg(plot: Path | None, what: str, *, overwrite: bool) -> None:
    """Refuse a figure that is to be something else than SVG, or that stands there already; `what` with its verb."""
    from prune.common.files.outputs import free_file

    if plot is None:
        return
    if plot.suffix.lower() != ".svg":
        raise UsageError(f"--plot {plot}: {what} an .svg file; give it that ending")
    free_file(plot, overwrite=overwrite)


def write_measured(
    measured: Artefact, figure: bytes, out: Path, plot: Path | None, unfinished: Unfinished, *, overwrite: bool
) -> None:
    """Write what was measured, and its figure where one was asked for; only then let the kept work go."""
    from prune.common.files.outputs import write_bytes

    measured.write(out, overwrite=overwrite)
    if plot is not None:
        write_bytes(plot, figure, overwrite=overwrite)
    unfinished.clear()


def say_written(out: Path, plot: Path | None) -> None:
    """One line that names the files."""
    screen().print(f"Wrote {out}" + (f" and {plot}" if plot is not None else ""))
