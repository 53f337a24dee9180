"""A hub model read from its headers: of each shard the first bytes are asked for, and only what is kept comes whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prune.checkpoint.companions import COMPANIONS
from prune.checkpoint.downloading import arriving, check_room, explained, list_wanted
from prune.checkpoint.headers import Shard, parse_shard
from prune.checkpoint.source import Source, locate
from prune.common.errors import CheckpointError

_FIRST = 1 << 17  # bytes asked for at once: nearly every header fits, and a second request costs more than they do


def open_on_hub(
    model: str | Path, *, revision: str | None, carry_code: bool
) -> tuple[Source, Callable[[str], Shard | None]]:
    """Bring a hub model's config, index and tokenizer into the cache, and none of its safetensors.

    Returns:
        Where they are, and a function that reads the header of a shard there, or says that there is no such file.

    Raises:
        CheckpointError: there is no such model, or the hub does not answer.
    """
    source = locate(model, revision=revision, patterns=["*.json", *COMPANIONS], code=carry_code)
    return source, lambda name: _remote_header(source, name)


def fetch(source: Source, names: Iterable[str]) -> None:
    """Bring the named files of a hub model into its snapshot, unless they are there.

    Raises:
        CheckpointError: the hub does not give one, or they do not fit on the disk.
    """
    absent = [name for name in names if not (source.folder / name).exists()]
    if not absent:
        return
    from huggingface_hub import hf_hub_download

    wanted = list_wanted(source.name, revision=source.commit, patterns=absent)
    check_room(source.name, wanted)
    with arriving(source.name, wanted, absent):
        for name in absent:
            with explained(source.name, f"{source.name}/{name}", wanted):
                hf_hub_download(source.name, name, revision=source.commit)


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

    what = f"{source.name}/{name}"
    try:
        with explained(source.name, what):
            first, size = ask(0, _FIRST)
    except EntryNotFoundError:
        return None

    def read(start: int, length: int) -> bytes:
        if start + length <= len(first):
            return first[start : start + length]
        with explained(source.name, what):
            return ask(start, length)[0]

    return parse_shard(source.folder / name, size, read)
