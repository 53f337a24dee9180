"""A hub model read from its headers: of each shard the first bytes are asked for, and only what is kept comes whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from prune.checkpoint.companions import COMPANIONS
from prune.checkpoint.headers import Shard, parse_shard
from prune.checkpoint.source import Source, locate
from prune.common.errors import CheckpointError, first_line

_FIRST = 1 << 17  # bytes asked for at once: nearly every header fits, and a second request costs more than they do


def open_on_hub(
    model: str | Path, *, revision: str | None = None, carry_code: bool = False
) -> tuple[Source, Callable[[str], Shard | None]]:
    """Bring a hub model's config, index and tokenizer into the cache, and none of its safetensors.

    Returns:
        Where they are, and a function that reads the header of a shard there, or says that there is no such file.

    Raises:
        CheckpointError: there is no such model, or the hub does not answer.
    """
    patterns = ["*.json", *COMPANIONS, *(["*.py"] if carry_code else [])]
    source = locate(model, revision=revision, patterns=patterns)
    return source, lambda name: _remote_header(source, name)


def fetch(source: Source, names: Iterable[str]) -> None:
    """Bring the named files of a hub model into its snapshot, unless they are there.

    Raises:
        CheckpointError: the hub does not give one.
    """
    for name in names:
        if (source.folder / name).exists():
            continue
        _asked(source, name, partial(_download, source, name))


def _download(source: Source, name: str) -> str:
    from huggingface_hub import hf_hub_download

    return hf_hub_download(source.name, name, revision=source.commit)


def _remote_header(source: Source, name: str) -> Shard | None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(source.name, name, revision=source.commit)

    def ask(start: int, length: int) -> tuple[bytes, int]:
        wanted = {**build_hf_headers(), "Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=wanted, follow_redirects=True) as answer:
            hf_raise_for_status(answer)
            content = b""
            for piece in answer.iter_bytes():
                content += piece
                if len(content) >= length:
                    break  # a server that ignores ranges would send the whole shard
            stated = answer.headers.get("Content-Range", "").rpartition("/")[2] or answer.headers.get("Content-Length")
            if start and answer.status_code != 206:
                raise CheckpointError(f"the hub does not give parts of {source.name}/{name}; download the model first")
        return content[:length], int(stated or 0)

    try:
        first, size = _asked(source, name, lambda: ask(0, _FIRST))
    except EntryNotFoundError:
        return None

    def read(start: int, length: int) -> bytes:
        if start + length <= len(first):
            return first[start : start + length]
        rest, _ = _asked(source, name, lambda: ask(start, length))
        return rest

    return parse_shard(source.folder / name, size, read)


def _asked(source: Source, name: str, work: Callable[[], Any]) -> Any:
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return work()
    except LocalEntryNotFoundError:
        raise CheckpointError(f"{source.name}/{name} is not in the cache, and the hub cannot be reached") from None
    except EntryNotFoundError:
        raise
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "no answer")
        raise CheckpointError(f"the hub does not give {source.name}/{name} (HTTP {code})") from None
    except OfflineModeIsEnabled:
        raise CheckpointError(
            f"{source.name}/{name} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
        ) from None
    except CheckpointError:
        raise
    except (OSError, ValueError, transport_errors()) as error:
        raise CheckpointError(f"{source.name}/{name} cannot be fetched from the hub ({first_line(error)})") from None


def transport_errors() -> type[Exception]:
    """Base of what the hub library's HTTP client raises: that client is httpx, or httpx2 since huggingface_hub 2."""
    from huggingface_hub.utils import get_session

    return import_module(type(get_session()).__module__.partition(".")[0]).HTTPError
