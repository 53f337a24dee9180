"""From MODEL, a local folder or a hub id, to the folder that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.common.errors import CheckpointError


@dataclass(frozen=True)
class Source:
    """A model's folder on this machine, with the name the user gave and the hub commit, if any."""

    folder: Path
    name: str
    commit: str | None = None


def locate(
    model: str | Path, *, revision: str | None = None, patterns: Sequence[str] | None = None, code: bool = False
) -> Source:
    """Resolve a local folder or a hub id to a folder; a hub id is downloaded to (or found in) the hub's cache.

    Args:
        model: a folder that holds config.json, or `owner/name`.
        revision: branch, tag or commit on the hub.
        patterns: file patterns to fetch; everything but code, other frameworks' weights and pickles if None.
        code: fetch the model's Python files too.

    Raises:
        CheckpointError: neither a model folder nor a hub model that can be reached, or its files do not come whole.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{model} holds no config.json, so it is not a model folder")
        return Source(path, str(model))
    if path.is_file():
        raise CheckpointError(f"{model} is a file; give the model's folder")
    name = str(model)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{model} does not exist; give a model folder or a hub id such as owner/name")
    from prune.checkpoint.downloading import PATTERNS, download

    folder = download(name, revision=revision, patterns=[*(patterns or PATTERNS), *(["*.py"] if code else [])])
    return Source(folder, name, commit=folder.name)


def find_here(model: str, commit: str | None) -> Source | None:
    """A model that is on this machine already, nothing is fetched: a folder, or the commit in the hub's cache.

    Args:
        model: as it was given to `locate`.
        commit: of a hub model, as `locate` told it; None for a folder.
    """
    path = Path(model).expanduser()
    if (path / "config.json").is_file():
        return Source(path, model)
    if commit is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Source(Path(snapshot_download(model, revision=commit, local_files_only=True)), model, commit)
    except (OSError, ValueError, HFValidationError):
        return None
