"""Files of a hub model brought into the hub's cache: whether they fit there, and one line for whatever stops it.

A file that has come whole stays in the cache, whatever happens to the next one. So the same command, run again, goes on
with the files that are missing.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from prune.common.errors import CheckpointError, first_line
from prune.common.processes import is_main

PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")  # no other framework's weights, no pickles
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
    with explained(model, model, wanted):
        for name, size in wanted.missing().items() if wanted else ():
            if size > _LARGE:
                hf_hub_download(model, name, revision=wanted.commit if wanted else None)
        return Path(snapshot_download(model, revision=revision, allow_patterns=allowed))


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
    if wanted is None or not is_main() or not (size := sum(wanted.missing().values())):
        return
    exists = next(path for path in (wanted.cache, *wanted.cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(exists).free
    if size <= free:
        return
    left = sum(path.stat().st_size for path in wanted.folder.glob("blobs/*.incomplete"))
    swept = f" (and {_gib(left)} in {wanted.folder / 'blobs'}/*.incomplete, which may be deleted)" if left else ""
    raise CheckpointError(
        f"{model} does not fit on the disk: {_gib(size)} are to be downloaded, and {wanted.cache} has {_gib(free)} "
        f"free{swept}; make room, or set HF_HOME to a folder on a larger disk"
    )


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
        f"{wanted.cache}: {again}, and it goes on with the rest ({_gib(sum(left.values()))})"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
