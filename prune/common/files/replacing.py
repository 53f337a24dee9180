"""What `--overwrite` may replace: a folder that a command of ours wrote, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from prune.common.errors import RegrowthError

# Each command that writes a folder puts one of these into it. A recipe's folder holds the folders of several commands.
RECORDS = frozenset(
    {
        "prune_plan.json",
        "heal.json",
        "finalists.json",
        "run.json",
        "comparison.json",
        "sweep.json",
        "depth.json",
        "frontier.json",
        "cliff.json",
        "manifest.json",
    }
)
_HEAD = 200  # bytes, in which a record says of which format it is


def check_replaceable(out: Path, *, marks: Collection[str] = (), option: str = "--out") -> None:
    """Refuse to replace a folder that is neither empty nor one that a command of ours wrote.

    Such a folder holds a record of ours, of any version. Neither it nor a folder below it is a git repository, and
    no folder below it holds a record: that one is another result.

    Args:
        marks: names of files that stand for a record, for a command that writes none.
        option: what names `out`.

    Raises:
        RegrowthError: naming a file that would be lost.
    """
    names = sorted(os.listdir(out))
    if not names:
        return
    lost = next(_foreign(out), None)
    if not any(name in marks or (name in RECORDS and _is_ours(out / name)) for name in names):
        lost = out / next((name for name in names if not _is_ours(out / name)), names[0])
    if lost is not None:
        raise RegrowthError(
            f"--overwrite replaces only what Regrowth wrote, and {option} {out} holds {lost.relative_to(out)}; "
            "give another folder, or remove this one yourself"
        )


def _foreign(out: Path) -> Iterator[Path]:
    """Git's own folder or file wherever it is, and the records of the folders below `out`."""
    for below, folders, files in os.walk(out):
        here = Path(below)
        folders.sort()
        for name in sorted({*folders, *files}):
            if name == ".git" or (here != out and name in RECORDS and _is_ours(here / name)):
                yield here / name


def _is_ours(path: Path) -> bool:
    """Whether it is a JSON file that says, in its first field, that its format is ours."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        return b'"format": "regrowth.' in file.read(_HEAD)
