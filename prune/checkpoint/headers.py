"""A checkpoint as its headers tell it: which tensors, of what type and shape, at which bytes of which shard.

Nothing here reads a tensor. Whatever a file claims is checked against its size before it is believed, and
every failure is a CheckpointError that names the file.
Format: https://huggingface.co/docs/safetensors (u64 header length, JSON header, data without gaps).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prune.common.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER_LIMIT = 100_000_000  # bytes; the format's own bound
_JSON_LIMIT = 100_000_000  # bytes; an index of a model with a million tensors has about this size
_SIZE_LIMIT = 1 << 63
_LONGEST_NAME = 255  # bytes; file systems take no more
# Bits per element. Sub-byte types are packed, and a tensor of them must fill whole bytes.
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Tensor:
    """One entry of a header; `start` and `end` are bytes from the beginning of the shard's data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def elements(self) -> int:
        """Number of values."""
        return self.size * 8 // BITS[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One safetensors file: its tensors in the order of their bytes, which begin at `data_start` in the file."""

    path: Path
    data_start: int
    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]
    header_sha256: str = ""  # of the length prefix and the JSON
    stamp: tuple[int, ...] | None = field(default=None, compare=False)  # see `stamp_of`; None if read from elsewhere

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes of data, without the header."""
        return self.tensors[-1].end if self.tensors else 0


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: its config as JSON, its shards in the order of their names, and its index's metadata."""

    folder: Path
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    index_metadata: dict[str, Any]

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, shard by shard."""
        for shard in self.shards:
            yield from shard.tensors

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(shard.size for shard in self.shards)


def read_checkpoint(folder: str | Path, *, absent: Callable[[str], Shard | None] | None = None) -> Checkpoint:
    """Read config.json, the index if there is one, and every shard's header; transformers' own order of preference.

    Args:
        absent: gives the header of a shard that is not in the folder yet (of a hub model), None if there is none.

    Raises:
        CheckpointError: something is missing, damaged or hostile; the message names the file.
    """
    folder = Path(folder)
    config = read_json_object(inside(folder, "config.json"))

    def header(name: str) -> Shard | None:
        if absent is not None and not (folder / plain(folder, name)).exists():
            return absent(name)
        return read_shard(inside(folder, name))

    index, single = None, None
    if (folder / WEIGHTS).exists():
        single = header(WEIGHTS)
    elif (folder / INDEX).exists():
        index = _read_index(inside(folder, INDEX))
    elif absent is not None:
        single = absent(WEIGHTS)
    if index is None and single is None:
        raise CheckpointError(_why_no_weights(folder))
    shards = [single] if single else []
    for name in sorted(set(index["weight_map"].values())) if index else ():
        try:
            shard = header(name)
        except CheckpointError as error:
            named = "" if (folder / name).exists() else f" (named in {INDEX})"
            raise CheckpointError(f"{error}{named}") from None
        if shard is None:
            raise CheckpointError(f"{folder / name} is missing (named in {INDEX})")
        shards.append(shard)
    _check_names(folder / INDEX, tuple(shards), index)
    return Checkpoint(folder, config, tuple(shards), dict((index or {}).get("metadata") or {}))


def plain(folder: Path, name: str) -> str:
    """`name` itself, where it is the plain name of a file and not a path."""
    odd = not name or "\0" in name or Path(name).name != name or "\\" in name or name in (".", "..")
    if odd or len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        raise CheckpointError(f"{folder}: {_short(name)!r} is not the plain name of a file in that folder")
    return name


def inside(folder: Path, name: str) -> Path:
    """The path of a regular file in `folder`, links followed, none of which may leave the folder.

    The hub's cache keeps a snapshot's files as links to `../../blobs`: that place, and no other, is allowed too.
    """
    path = folder / plain(folder, name)
    try:
        root, real = folder.resolve(strict=True), path.resolve(strict=True)
        regular = stat.S_ISREG(real.stat().st_mode)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise CheckpointError(f"{path} cannot be reached ({type(error).__name__})") from None
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (real.is_relative_to(root) or real.is_relative_to(blobs)):
        raise CheckpointError(f"{path} is a link that leaves its folder; copy the file in if you trust it")
    if not regular:
        raise CheckpointError(f"{path} is not a regular file")
    return path


def read_shard(path: Path) -> Shard:
    """Read and check one safetensors header: offsets must tile the data, and types and shapes must give the bytes.

    Raises:
        CheckpointError: the file is not safetensors, is cut short, or its header does not fit it.
    """
    with path.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        state = os.fstat(file.fileno())
        return replace(parse_shard(path, state.st_size, read), stamp=_stamp(state))


def stamp_of(path: Path) -> tuple[int, ...] | None:
    """Facts of a file that change when it is written anew; None where there is no file.

    The last is the time of change, which no copy or `touch` can set.
    """
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(state: os.stat_result) -> tuple[int, ...]:
    return state.st_size, state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns


def parse_shard(path: Path, size: int, read: Callable[[int, int], bytes]) -> Shard:
    """The same for a file of `size` bytes that `read(start, length)` reads, wherever it is; `path` names it."""
    prefix = read(0, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length < 2:
        raise CheckpointError(f"{path} is not a safetensors file")
    if length > HEADER_LIMIT:
        raise CheckpointError(f"{path}: its header claims {length} bytes, more than the {HEADER_LIMIT} allowed")
    if length > size - 8:
        raise CheckpointError(f"{path}: its header of {length} bytes ends beyond the file of {size}")
    raw = read(8, length)
    header = _parse(raw, path, unique=True)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its header is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ is not a table of strings")
    tensors = sorted((_tensor(name, entry, path) for name, entry in header.items()), key=lambda t: (t.start, t.end))
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            fault = "overlaps the one before it" if tensor.start < end else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {_short(tensor.name)} {fault}")
        end = tensor.end
    if end != size - 8 - length:
        raise CheckpointError(f"{path}: holds {size - 8 - length} bytes of data where its header describes {end}")
    return Shard(path, 8 + length, tuple(tensors), metadata, hashlib.sha256(prefix + raw).hexdigest())


def _tensor(name: str, entry: Any, path: Path) -> Tensor:
    fault = f"{path}: tensor {_short(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{fault} is not described by a dtype, a shape and two offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{fault} has an unknown dtype {_short(str(dtype))}")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{fault} has a shape or offsets that are not lists of whole numbers")
    start, end = offsets
    bits = BITS[dtype]
    for dimension in shape if 0 not in shape else [0]:
        bits *= dimension
        if bits > 8 * _SIZE_LIMIT:
            break
    if start > end or bits != 8 * (end - start):
        raise CheckpointError(f"{fault} has {end - start} bytes, which its dtype and shape do not give")
    return Tensor(name, dtype, tuple(shape), start, end)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < _SIZE_LIMIT for number in value)


def _read_index(path: Path) -> dict[str, Any]:
    """An index file, all of whose shards have plain names that end in `.safetensors`.

    Raises:
        CheckpointError: it is no index, or points elsewhere.
    """
    index = read_json_object(path, unique=True)
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(shard, str) for shard in names.values()):
        raise CheckpointError(f"{path}: weight_map is not a table from tensors to shards")
    if not isinstance(index.get("metadata") or {}, dict):
        raise CheckpointError(f"{path}: metadata is not a table")
    for shard in sorted(set(names.values())):
        if not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path}: {_short(shard)} is not the name of a safetensors file")
        try:
            plain(path.parent, shard)
        except CheckpointError as error:
            raise CheckpointError(f"{error} (named in {path.name})") from None
    return index


def _check_names(path: Path, shards: tuple[Shard, ...], index: dict[str, Any] | None) -> None:
    """No tensor twice, and each one in the shard that the index at `path` says; a shard may hold more than it lists."""
    holder: dict[str, str] = {}
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in holder:
                raise CheckpointError(
                    f"{shard.path}: tensor {_short(tensor.name)} stands in {holder[tensor.name]} as well"
                )
            holder[tensor.name] = shard.name
    for name, wanted in (index or {}).get("weight_map", {}).items():
        if holder.get(name) != wanted:
            raise CheckpointError(f"{path}: tensor {_short(name)} is not in {wanted}, where it should be")


def read_json_object(path: Path, *, unique: bool = False) -> dict[str, Any]:
    """A JSON object from a file of bounded size; `unique` refuses repeated keys.

    Raises:
        CheckpointError: too large, not UTF-8, not JSON, or not an object.
    """
    with path.open("rb") as file:
        raw = file.read(_JSON_LIMIT + 1)
    if len(raw) > _JSON_LIMIT:
        raise CheckpointError(f"{path} is larger than {_JSON_LIMIT} bytes")
    document = _parse(raw, path, unique=unique)
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return document


def _parse(raw: bytes, path: Path, *, unique: bool) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise CheckpointError(f"{path}: {_short(twice)} stands twice in one JSON object")
        return table

    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=once if unique else None)
        if b"\\u" in raw:  # an escape can smuggle in half a surrogate pair, which cannot be written again
            json.dumps(document, ensure_ascii=False).encode("utf-8")
        return document
    except UnicodeError:
        raise CheckpointError(f"{path} is not UTF-8") from None
    except RecursionError:
        raise CheckpointError(f"{path} holds JSON that is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, and whole numbers of thousands of digits
        raise CheckpointError(f"{path} is not JSON ({_short(str(error))})") from None


def _why_no_weights(folder: Path) -> str:
    names = os.listdir(folder)
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return (
            f"{folder} holds its weights as pickles (.bin) only, which can run code when opened; if you trust them, "
            "convert them once: "
            f'python -c \'import transformers as t; m, o = "{folder}", "{folder.name}-safe"; '
            "t.AutoModelForCausalLM.from_pretrained(m).save_pretrained(o); "
            "t.AutoTokenizer.from_pretrained(m).save_pretrained(o)'"
        )
    if any(name.endswith(".gguf") for name in names):
        return f"{folder} holds GGUF weights; cut the safetensors model that they were made from"
    return f"{folder} holds no weights ({WEIGHTS} or {INDEX})"


def _short(text: str) -> str:
    shown = text if len(text) <= 80 else text[:77] + "..."
    return shown if shown.isprintable() else ascii(shown)
