"""What every command shares on a terminal: one error line, exit codes, progress on stderr, JSON on stdout."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from prune.common.errors import RegrowthError
from prune.common.files.room import no_room
from prune.common.machine.out_of_memory import describe_out_of_memory, is_out_of_memory
from prune.common.screen import wording
from prune.common.screen.closed_output import is_closed_output, while_read

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# What torch's allocator is asked for, unless the user has asked for something else.
GROWING = "expandable_segments:True"
Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"{wording.MODEL}.")]
Revision = Annotated[str | None, typer.Option(help=wording.REVISION)]
Resume = Annotated[bool, typer.Option("--resume", help=wording.RESUME)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=wording.OVERWRITE)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
EXIT_NO_GO = 3
EXIT_INCONCLUSIVE = 4

# Typer brings its own click since 0.20; the base of its errors is reached through a class it does export.
ClickError: Any = typer.BadParameter.__mro__[2]


def grow_segments() -> None:
    """Let torch's allocator grow its segments on a GPU: rows, masks and chunks of changing sizes else leave holes.

    torch reads it when it is imported, so a command asks for it first. What the user has set stays.
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = GROWING


class Commands(TyperGroup):
    """A command group whose errors are one line on stderr, and whose `--debug` may stand anywhere."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        for command in (self, *self.commands.values()):
            command.help = _flowing(command.help or "")

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        self.debug = "--debug" in arguments
        self.arguments = [a for a in arguments if a != "--debug"]
        grow_segments()
        return super().main(self.arguments, *rest, **extra)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with while_read():  # the group's own --help is printed here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with while_read():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ClickError as error:  # an option that does not exist, a value of the wrong kind
            command = getattr(error, "ctx", None) or ctx
            line = f"{error.format_message().rstrip('.')} (see: {command.command_path} --help)"
            raise self._stop(error, line, error.exit_code) from error
        except (typer.Exit, typer.Abort):
            raise
        except RegrowthError as error:
            raise self._stop(error, str(error), error.exit_code) from error
        except KeyboardInterrupt as error:
            raise self._stop(error, "interrupted", 130) from error
        except Exception as error:
            if is_closed_output(error):
                raise
            if is_out_of_memory(error):
                line = describe_out_of_memory(error, self._options(ctx))
            elif (full := no_room(error)) is not None:
                line = _describe_no_room(*full, _file_of(error), self._options(ctx).get("--out"))
            elif isinstance(error, OSError):
                line = _describe_os_error(error)
            else:
                line = f"{type(error).__name__}: {error} (a bug of ours, or an unforeseen input; --debug shows where)"
            raise self._stop(error, line, 1) from error

    def _options(self, ctx: Any) -> dict[str, Any]:
        """The options of the command that is run, and their values: as given, or by default."""
        name = ctx.invoked_subcommand
        words = self.arguments[self.arguments.index(name) + 1 :]
        parsed = self.commands[name].make_context(name, words, parent=ctx, resilient_parsing=True)
        options = ((option, parameter.name) for parameter in parsed.command.params for option in parameter.opts)
        values = {option: parsed.params.get(name) for option, name in options}
        return values | {o: not values[p.opts[0]] for p in parsed.command.params for o in p.secondary_opts}

    def _stop(self, error: BaseException, line: str, code: int) -> typer.Exit:
        if getattr(self, "debug", False):
            import traceback

            traceback.print_exception(error)
        line = " ".join(line.split())
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(line, err=True)
        return typer.Exit(code)


def _flowing(text: str) -> str:
    """A docstring whose paragraphs are one line each, so that a terminal breaks them; lists keep their lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        paragraph if re.search(r"^\s*([-*\b]|\d+\.) ?", paragraph, re.MULTILINE) else " ".join(paragraph.split())
        for paragraph in paragraphs
    )


def _describe_os_error(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    name = _file_of(error)
    return f"{name}: {what}" if name else what


def _describe_no_room(why: str, remedy: str, name: str | None, out: Any) -> str:
    if name is not None:
        return f"{name} cannot be written ({why}); {remedy}"
    return f"{out} cannot be written ({why}); {remedy}, or use another --out" if out else f"{why}; {remedy}"


def _file_of(error: BaseException) -> str | None:
    """The file that an error of the system is about; None where it does not say."""
    if not isinstance(error, OSError):
        return None
    name, second = error.filename, error.filename2
    if second and no_room(error) is not None:  # of a copy's two files, it is the second
        name = second
    elif second and error.errno in (errno.EIO, errno.ESTALE):  # it may be either
        name = f"{name} -> {second}"
    return None if name is None else str(name)


def _show_versions(wanted: bool) -> None:
    if not wanted:
        return
    from prune.common.files.provenance import versions

    for package, version in versions().items():
        typer.echo(f"{package} {version}")
    raise typer.Exit


_Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_versions, is_eager=True, help="Show the versions that results hang on, and exit."
    ),
]


def make_app(name: str, purpose: str) -> typer.Typer:
    """Return an empty Typer app named `name`; `purpose` heads its help. `--debug` shows tracebacks."""
    app = typer.Typer(
        name=name,
        cls=Commands,
        help=purpose + "\n\nEvery command takes --debug: a full traceback where something fails.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(version: _Version = False) -> None:  # keeps a one-command app a group: its command is named on the line
        quiet_libraries()  # before any command imports them: tqdm asks once whether to draw bars

    return app


def quiet_libraries() -> None:
    """Silence progress bars and advice of the libraries below us: ours say what a user needs."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")  # of lm-eval; tqdm reads it when it is imported
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advises a kernel for inference at import
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    if "transformers" in sys.modules:
        from transformers.utils import logging as library_logging

        library_logging.set_verbosity_error()
        library_logging.disable_progress_bar()


def screen() -> Console:
    """The console for people: stderr, so that stdout stays clean for `--json` and for pipes.

    Lines are not broken at its width and brackets are no markup, so that a path or command can be copied.
    """
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def answer(document: Any, shown: Callable[[], RenderableType] | RenderableType, *, as_json: bool) -> None:
    """Print a command's result: one JSON document on stdout with `--json`, else `shown` for people."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        return
    from rich.console import Console

    Console(highlight=False).print(shown() if callable(shown) else shown)


class Progress:
    """What a long job tells its watcher: `advance` by steps, `note` a few words beside them. This one is silent."""

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done."""

    def note(self, words: str) -> None:
        """Show `words` beside the count."""


class _Bar(Progress):
    """A bar with counts and ETA on a terminal."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, steps: float = 1) -> None:
        self._bar.advance(self._task, steps)

    def note(self, words: str) -> None:
        self._bar.update(self._task, note=words)


class _Lines(Progress):
    """In a log: a line at the start, one every half minute with the ETA, one at the end."""

    EVERY = 30.0  # seconds

    def __init__(self, title: str, total: float | None, console: Console) -> None:
        self._title, self._total, self._console = title, total, console
        self._done, self._words = 0.0, ""
        self._started = self._said = time.monotonic()
        console.print(f"{title} ...")

    def advance(self, steps: float = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._said < self.EVERY:
            return
        self._said = now
        line = f"{self._title}: {self._done:,.0f}"
        if self._total:
            line += f" of {self._total:,.0f}"
            if self._done:  # before the first step nothing tells how long the others will take
                left = (now - self._started) * max(0.0, self._total / self._done - 1)
                line += f", about {left:.0f} s left"
        self._console.print(f"{line} {self._words}".rstrip())

    def note(self, words: str) -> None:
        self._words = words

    def end(self) -> None:
        """Say how long it took."""
        self._console.print(f"{self._title}: done in {time.monotonic() - self._started:.1f} s")


@contextmanager
def progress(title: str, total: float | None, *, shown: bool = True) -> Iterator[Progress]:
    """Show `title` with a bar, counts, elapsed time and ETA on stderr while the block runs; in a log, as lines."""
    if not shown:
        yield Progress()
        return
    console = screen()
    if not console.is_terminal:
        lines = _Lines(title, total, console)
        yield lines
        lines.end()
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Bars(*columns, console=console) as bar:
        yield _Bar(bar, bar.add_task(title, total=total, note=""))
