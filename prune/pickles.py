"""Weights in pickles (.bin), for those who ask by name: read as tensors only, and written out as safetensors.

`torch.load(weights_only=True)` builds tensors and plain containers and refuses whatever else a pickle calls for.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.byteranges import Layout
from prune.checkpoint import BITS, INDEX, WEIGHTS, Checkpoint, Shard, Tensor, check_names, inside, read_index
from prune.checkpoint import read_json_object as _read_json
from prune.copying import write_all
from prune.errors import CheckpointError
from prune.provenance import file_sha256

if TYPE_CHECKING:
    import torch

PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
_OUTPUT_EMBEDDINGS = ("lm_head.weight", "embed_out.weight", "output.weight")
_STEP = 64 << 20  # bytes written at once


def has_only_pickles(folder: Path) -> bool:
    """Whether a model's weights are in pickles, and in nothing better."""
    names = os.listdir(folder)
    return (PICKLE in names or PICKLE_INDEX in names) and not {WEIGHTS, INDEX} & set(names)


def read_pickled_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint as it would be in safetensors, each .bin file one shard; tensor data stay on the disk.

    Raises:
        CheckpointError: a file is missing or damaged, or holds more than tensors.
    """
    config = _read_json(inside(folder, "config.json"))
    index, names = None, [PICKLE]
    if PICKLE not in os.listdir(folder):
        index = read_index(inside(folder, PICKLE_INDEX), ".bin")
        names = sorted(set(index["weight_map"].values()))
    shards = tuple(_shard(inside(folder, name), config) for name in names)
    if index is not None:
        listed = {tensor.name for shard in shards for tensor in shard.tensors}
        index["weight_map"] = {name: place for name, place in index["weight_map"].items() if name in listed}
    check_names(folder / PICKLE_INDEX, shards, index)
    return Checkpoint(folder, config, shards, dict((index or {}).get("metadata") or {}), pickled=True)


def open_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .bin file by name, mapped from the file where its format allows.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors.
    """
    import torch

    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)  # torch < 1.6 wrote no zip files
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path} asks for more than tensors when it is opened, and is refused") from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise CheckpointError(f"{path} cannot be read as a torch pickle ({type(error).__name__}: {reason})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} does not hold a table of tensors")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            raise CheckpointError(f"{path}: {str(name)[:80]!r} is not a plain tensor")
        if value.dtype not in _dtypes():
            raise CheckpointError(f"{path}: tensor {name[:80]!r} has a dtype that safetensors lacks ({value.dtype})")
    return found


def write_pickled(
    shard: Shard, layout: Layout, rename: Callable[[str], str | None], target: Path, advance: Callable[[int], None]
) -> None:
    """Write the safetensors file of a .bin file's kept tensors, in the order of `shard`, one at a time.

    Raises:
        CheckpointError: the file changed since `shard` was read.
    """
    tensors = open_pickle(shard.path)
    names = [tensor.name for tensor in shard.tensors if rename(tensor.name) is not None]
    write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(write, layout.header, 0, target)
        place = len(layout.header)
        for name, planned in zip(names, layout.tensors, strict=True):
            content = tensor_bytes(tensors[name])
            if len(content) != planned.size:
                raise CheckpointError(f"{shard.path} changed while it was read")
            for start in range(0, len(content), _STEP):
                write_all(write, content[start : start + _STEP], place + start, target)
                advance(min(_STEP, len(content) - start))
            place += len(content)
    finally:
        os.close(write)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's values in row-major order, as safetensors stores them."""
    import torch

    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def _shard(path: Path, config: dict[str, Any]) -> Shard:
    """A .bin file as the safetensors file it would be. Twins that share their data become copies, but for the output
    embeddings of a config that ties them: transformers ties those again."""
    tied = _tied(config)
    tensors, place, seen = [], 0, set()
    for name, value in open_pickle(path).items():
        twin = (value.untyped_storage().data_ptr(), value.storage_offset(), tuple(value.shape), value.stride())
        if tied and twin in seen and name.endswith(_OUTPUT_EMBEDDINGS):
            continue
        seen.add(twin)
        kind = _dtypes()[value.dtype]
        size = value.numel() * BITS[kind] // 8
        tensors.append(Tensor(name, kind, tuple(value.shape), place, place + size))
        place += size
    return Shard(path, 0, tuple(tensors), {"format": "pt"}, file_sha256(path))


def _tied(config: dict[str, Any]) -> bool:
    section = config.get("text_config")
    parts = [config, section] if isinstance(section, dict) else [config]
    return any(part.get("tie_word_embeddings") is True for part in parts)


def _dtypes() -> dict[Any, str]:
    import torch

    names = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
        "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64",
        "C64": "complex64",
    }  # fmt: skip
    return {getattr(torch, name): kind for kind, name in names.items() if hasattr(torch, name)}
