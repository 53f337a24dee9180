"""Files of a hub model brought into the hub's cache: whether they fit there, and one line for whatever stops it.

A file that has come whole stays in the cache, whatever happens to the next one. So the same command, run again, goes on
with the files that are missing.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from prune.common.errors import CheckpointError, first_line
from prune.common.files.room import existing, free_bytes
from prune.common.machine.processes import is_main
from prune.common.screen.terminal import progress

PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # no other framework's weights, no pickles
_MIB, _EVERY = 1 << 20, 0.5  # bytes; seconds between two looks at what has come
_LARGE = 1 << 20  # bytes: tokenizers and configs may come together


class DownloadStoppedError(CheckpointError):
    """Ctrl-C came while files were fetched. Exit code 130."""

    exit_code = 130


@dataclass(frozen=True)
class Wanted:
    """What a download is to bring.

    Attributes:
        commit: that the hub has now.
        files: of each file, the name of its content in the cache, and its bytes.
        cache: the folder of all models.
        folder: of this one in it.
    """

    commit: str | None
    files: dict[str, tuple[str, int]]
    cache: Path
    folder: Path

    def missing(self) -> dict[str, int]:
        """Bytes of each file that is not there yet."""
        blobs = self.folder / "blobs"
        return {name: size for name, (content, size) in self.files.items() if not (blobs / content).exists()}

    @property
    def size(self) -> int:
        """Bytes that are not there yet."""
        return sum(self.missing().values())


def download(model: str, *, revision: str | None = None, patterns: Iterable[str] | None = None) -> Path:
    """The folder of a hub model's files that fit the patterns (`PATTERNS` if None), fetched where they are missing.

    Large files come one after the other. A pool of threads, as `snapshot_download` has it, lets Ctrl-C wait until all
    of them have come.

    Raises:
        CheckpointError: the hub does not give them, they do not fit on the disk, or the download broke off.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    allowed = list(patterns or PATTERNS)
    wanted = list_wanted(model, revision=revision, patterns=allowed)
    check_room(model, wanted)
    large = [] if wanted is None else [name for name, size in wanted.missing().items() if size > _LARGE]
    with explained(model, model, wanted), arriving(model, wanted, large):
        for name in large:
            hf_hub_download(model, name, revision=wanted.commit if wanted else None)
        return Path(snapshot_download(model, revision=revision, allow_patterns=allowed))


@contextmanager
def arriving(model: str, wanted: Wanted | None, names: Iterable[str]) -> Iterator[None]:
    """Show how much of some files has come while the block fetches them; nothing where none of them is large.

    Their sizes on the disk tell, whatever the hub library fetches them with.
    """
    missing = {} if wanted is None else wanted.missing()
    coming = {wanted.files[name][0]: missing[name] for name in names if name in missing} if wanted else {}
    if wanted is None or not is_main() or max(coming.values(), default=0) <= _LARGE:
        yield
        return
    blobs, over = wanted.folder / "blobs", threading.Event()
    left = _partial(blobs)
    with progress(f"Downloading {model} (MiB)", sum(coming.values()) / _MIB) as bar:

        def watch() -> None:
            told, last = 0, False
            while not last:
                last = over.wait(_EVERY)
                whole = sum(size for content, size in coming.items() if (blobs / content).exists())
                parts = sum(max(0, size - left.get(name, 0)) for name, size in _partial(blobs).items())
                now = min(whole + parts, sum(coming.values()))
                bar.advance(max(0, now - told) / _MIB)
                told = max(told, now)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def _partial(blobs: Path) -> dict[str, int]:
    """Bytes of the files that have come in part; room that is only set apart does not count."""
    sizes: dict[str, int] = {}
    for path in blobs.glob("*.incomplete"):
        with suppress(FileNotFoundError):  # whole by now
            told = path.stat()
            sizes[path.name] = min(told.st_size, 512 * told.st_blocks)
    return sizes


def list_wanted(model: str, *, revision: str | None, patterns: Iterable[str]) -> Wanted | None:
    """The files that fit the patterns, by the hub's list; None where the hub gives no list."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import filter_repo_objects

    try:
        told = HfApi().model_info(model, revision=revision, files_metadata=True)
    except (OSError, HFValidationError, transport_errors()):
        return None  # the download itself finds out what is wrong, or does without the hub
    cache = Path(constants.HF_HUB_CACHE)
    folder = cache / f"models--{model.replace('/', '--')}"
    chosen = filter_repo_objects(told.siblings or [], allow_patterns=list(patterns), key=lambda file: file.rfilename)
    files = {file.rfilename: (str(file.lfs.sha256 if file.lfs else file.blob_id), file.size or 0) for file in chosen}
    return Wanted(told.sha, files, cache, folder)


def check_room(model: str, wanted: Wanted | None) -> None:
    """Refuse a download that the disk of the cache has no room for, before it begins.

    Of several processes that start together, one looks: what the others are writing would count twice.

    Raises:
        CheckpointError: there is less room than the missing files take.
    """
    if wanted is None or not is_main() or not (size := wanted.size):
        return
    free = free_bytes(wanted.cache)
    if size <= free:
        return
    left = sum(path.stat().st_size for path in wanted.folder.glob("blobs/*.incomplete"))
    swept = f" (and {_gib(left)} in {wanted.folder / 'blobs'}/*.incomplete, which may be deleted)" if left else ""
    raise CheckpointError(
        f"{model} does not fit on the disk: {_gib(size)} are to be downloaded, and {wanted.cache} has {_gib(free)} "
        f"free{swept}; make room, or set HF_HOME to a folder on a larger disk"
    )


def missing_bytes(model: str, *, revision: str | None) -> int:
    """What `download` has yet to bring of a model; 0 for a folder, and where the hub gives no list of files."""
    if Path(model).exists():
        return 0
    wanted = list_wanted(model, revision=revision, patterns=PATTERNS)
    return 0 if wanted is None else wanted.size


def cache_folder() -> Path:
    """Where hub models are kept, or the nearest folder above it that is there."""
    from huggingface_hub import constants

    return existing(Path(constants.HF_HUB_CACHE))


@contextmanager
def explained(model: str, what: str, wanted: Wanted | None = None) -> Iterator[None]:
    """Turn what the hub library raises while it lasts into one line that says what to change.

    Args:
        what: is asked for: the model, or a file of it.
        wanted: all that is to be fetched, where that is known.

    Raises:
        CheckpointError: in the place of such an error.
        EntryNotFoundError: as it is: the hub has no file of that name.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except HFValidationError:
        raise CheckpointError(f"{model} does not exist and is no hub id either") from None
    except GatedRepoError as error:
        raise CheckpointError(_gated(model, _code(error))) from None
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no {model}, or does not show it to you (HTTP {_code(error)}); check the name; where it is "
            "private, log in with `hf auth login` or set HF_TOKEN"
        ) from None
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):  # it answered, with an error
            raise CheckpointError(_refused(what, error.__cause__)) from None
        if wanted is not None:  # it gave the list of files a moment ago
            raise CheckpointError(_broken_off(what, "the hub cannot be reached", wanted)) from None
        if hasattr(error, "snapshot_path"):
            raise CheckpointError(
                f"{model} has come only in part, and the hub cannot be reached for the rest; when it can, run the same "
                "command again"
            ) from None
        if what == model:
            raise CheckpointError(
                f"{model} is not a folder here, and the hub cannot be reached to look for it; give a local model folder"
            ) from None
        raise CheckpointError(f"{what} is not in the cache, and the hub cannot be reached") from None
    except EntryNotFoundError:
        raise
    except HfHubHTTPError as error:
        if wanted is not None and _code(error).startswith("5"):
            raise CheckpointError(_broken_off(what, f"HTTP {_code(error)}", wanted)) from None
        raise CheckpointError(_refused(what, error)) from None
    except OfflineModeIsEnabled:
        raise CheckpointError(f"{what} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it") from None
    except KeyboardInterrupt:
        raise DownloadStoppedError(_broken_off(what, "interrupted", wanted)) from None
    except CheckpointError:
        raise
    except (OSError, RuntimeError, ValueError, transport_errors()) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "the disk is full: make room, or set HF_HOME to a folder on a larger disk" if full else first_line(error)
        raise CheckpointError(_broken_off(what, why, wanted)) from None


def transport_errors() -> type[Exception]:
    """Base of what the hub library's HTTP client raises: that client is httpx, or httpx2 since huggingface_hub 2."""
    from huggingface_hub.utils import get_session

    return import_module(type(get_session()).__module__.partition(".")[0]).HTTPError


def _code(error: object) -> str:
    return str(getattr(getattr(error, "response", None), "status_code", "no answer"))


def _gated(model: str, code: str) -> str:
    from huggingface_hub import constants, get_token

    place = f"{constants.ENDPOINT}/{model}"
    if get_token() is None:
        return (
            f"{model} is gated (HTTP {code}), and you are not logged in: accept its terms at {place}, then log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    return (
        f"{model} is gated (HTTP {code}), and your login has no access to it: ask for it at {place}; where it was "
        "granted, the token must be allowed to read gated repositories"
    )


def _refused(what: str, error: object) -> str:
    return f"the hub does not give {what} (HTTP {_code(error)}); check the name, --revision and your login"


def _broken_off(what: str, why: str, wanted: Wanted | None) -> str:
    again = "run the same command again"
    if wanted is None:
        return f"{what} cannot be fetched from the hub ({why}); {again}"
    left, count = wanted.missing(), len(wanted.files)
    return (
        f"the download of {what} broke off ({why}); {count - len(left)} of {count} files are whole and stay in "
        f"{wanted.cache}: {again}, and it goes on with the rest ({_gib(wanted.size)})"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
