"""Headers and indexes: what is sound is read, what is not is refused by name, whatever it is."""

import json
import os
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.checkpoint.copying import write_layout
from prune.checkpoint.headers import BITS, INDEX, WEIGHTS, Shard, Tensor, read_checkpoint, read_shard
from prune.checkpoint.layout import coalesce, encode_header, lay_out
from prune.checkpoint.names import LayerNames, find_layer_names
from prune.common.errors import CheckpointError


def entry(start, end, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def safetensors(header, data=b"", *, length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write(folder: Path, content: bytes, name=WEIGHTS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    return folder


SOUND = {"a": entry(0, 8), "b": entry(8, 16)}

BAD = {
    "empty file": b"",
    "seven bytes": b"1234567",
    "length zero": struct.pack("<Q", 0),
    "length beyond the file": safetensors(SOUND, bytes(16), length=10_000),
    "length beyond 100 MB": safetensors(SOUND, bytes(16), length=1 << 40),
    "length of 2^64": safetensors(SOUND, bytes(16), length=(1 << 64) - 1),
    "not JSON": safetensors(b"{nonsense}"),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
    "a list": safetensors([1, 2]),
    "deep JSON": safetensors(b"[" * 200_000),
    "a number of 10,000 digits": safetensors(b'{"a": ' + b"9" * 10_000 + b"}"),
    "a name twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "overlap": safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "hole": safetensors({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "hole at the beginning": safetensors({"a": entry(4, 12)}, bytes(12)),
    "data left over": safetensors(SOUND, bytes(20)),
    "data cut short": safetensors(SOUND, bytes(12)),
    "offsets backwards": safetensors({"a": entry(8, 0, shape=[0])}, b""),
    "negative offset": safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}),
    "shape too small": safetensors({"a": entry(0, 8, shape=[1])}, bytes(8)),
    "shape too large": safetensors({"a": entry(0, 8, shape=[1 << 62, 1 << 62, 1 << 62])}, bytes(8)),
    "negative shape": safetensors({"a": entry(0, 8, shape=[-1, -2])}, bytes(8)),
    "shape of truths": safetensors({"a": entry(0, 4, shape=[True])}, bytes(4)),
    "shape of fractions": safetensors({"a": entry(0, 8, shape=[2.0])}, bytes(8)),
    "unknown dtype": safetensors({"a": entry(0, 8, dtype="F33")}, bytes(8)),
    "dtype of another size": safetensors({"a": entry(0, 8, dtype="F16")}, bytes(8)),
    "dtype a list": safetensors({"a": entry(0, 8, dtype=["F32"])}, bytes(8)),
    "three offsets": safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}, bytes(8)),
    "a field more": safetensors({"a": entry(0, 8) | {"code": "x"}}, bytes(8)),
    "entry a number": safetensors({"a": 5}, b""),
    "half a surrogate pair": safetensors(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}}, b""),
    "metadata a list": safetensors({"__metadata__": [1]}, b""),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_damaged_header_is_refused_and_its_file_named(tmp_path, content):
    folder = write(tmp_path / "model", content)
    with pytest.raises(CheckpointError, match="model.safetensors"):
        read_checkpoint(folder)


def test_a_sound_header_is_read_in_the_order_of_its_bytes(tmp_path):
    header = {"__metadata__": {"format": "pt"}, "b": entry(8, 16), "empty": entry(8, 8, shape=[0, 5]), "a": entry(0, 8)}
    path = write(tmp_path / "model", safetensors(json.dumps(header).encode() + b"   ", bytes(16))) / WEIGHTS
    shard = read_shard(path)
    assert [tensor.name for tensor in shard.tensors] == ["a", "empty", "b"]
    assert shard.metadata == {"format": "pt"}
    assert (shard.size, shard.data_start) == (16, path.stat().st_size - 16)


def sharded(folder: Path, weight_map, **fields) -> Path:
    write(folder, safetensors({"a": entry(0, 8)}, bytes(8)), "one.safetensors")
    write(folder, safetensors({"b": entry(0, 8)}, bytes(8)), "two.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map, **fields}))
    return folder


def test_an_index_names_its_shards(tmp_path):
    checkpoint = read_checkpoint(sharded(tmp_path / "m", {"a": "one.safetensors", "b": "two.safetensors"}))
    assert [tensor.name for tensor in checkpoint.tensors()] == ["a", "b"]
    assert checkpoint.size == 16


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../one.safetensors"}, "not the plain name"),
        ({"a": "/etc/one.safetensors"}, "not the plain name"),
        ({"a": "sub/one.safetensors"}, "not the plain name"),
        ({"a": "..\\one.safetensors"}, "not the plain name"),
        ({"a": "x\0.safetensors"}, "not the plain name"),
        ({"a": "config.json"}, "not the name of a safetensors file"),
        ({"a": "three.safetensors"}, "three.safetensors is missing"),
        ({"a": "two.safetensors", "b": "two.safetensors"}, "a is not in two.safetensors"),
        ({"a": "one.safetensors", "c": "two.safetensors"}, "c is not in two.safetensors"),
        ({"a": 1}, "weight_map"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, weight_map, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(sharded(tmp_path / "m", weight_map))


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = sharded(tmp_path / "m", {"a": "one.safetensors", "b": "two.safetensors"})
    write(folder, safetensors({"a": entry(0, 8), "b": entry(8, 16)}, bytes(16)), "two.safetensors")
    with pytest.raises(CheckpointError, match="a stands in one.safetensors as well"):
        read_checkpoint(folder)


def test_links_may_not_leave_the_folder_but_the_hub_cache_is_read(tmp_path):
    sound = safetensors(SOUND, bytes(16))
    elsewhere = write(tmp_path / "elsewhere", sound)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / WEIGHTS).symlink_to(elsewhere / WEIGHTS)
    with pytest.raises(CheckpointError, match="leaves its folder"):
        read_checkpoint(folder)
    (folder / WEIGHTS).unlink()
    (folder / "weights").write_bytes(sound)
    (folder / WEIGHTS).symlink_to("weights")
    assert read_checkpoint(folder).size == 16

    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    for name, content in (("config.json", b"{}"), (WEIGHTS, sound)):
        (tmp_path / "models--a--b" / "blobs" / name).write_bytes(content)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert read_checkpoint(snapshot).size == 16


@pytest.mark.parametrize("kind", ["fifo", "folder", "circle"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path, kind):
    folder = write(tmp_path / "model", safetensors(SOUND, bytes(16)))
    (folder / "config.json").unlink()
    if kind == "fifo":
        os.mkfifo(folder / "config.json")
    elif kind == "folder":
        (folder / "config.json").mkdir()
    else:
        (folder / "config.json").symlink_to("config.json")
    with pytest.raises(CheckpointError, match="config.json"):
        read_checkpoint(folder)


def test_other_kinds_say_what_to_do(tmp_path):
    write(tmp_path / "gguf", b"", "model.gguf")
    with pytest.raises(CheckpointError, match="GGUF"):
        read_checkpoint(tmp_path / "gguf")
    write(tmp_path / "bare", b"", "notes.txt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(tmp_path / "bare")


# --- byte ranges ---------------------------------------------------------------------------------------------------

tensor_sizes = st.lists(st.integers(0, 40), max_size=30)


@given(tensor_sizes, st.data())
def test_a_new_shard_holds_exactly_the_kept_bytes_in_their_order(tmp_path_factory, sizes, data):
    kept = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    tensors, content, place = [], b"", 0
    for number, size in enumerate(sizes):
        tensors.append(Tensor(f"t.{number}", "U8", (size,), place, place + size))
        content += bytes([number + 1]) * size
        place += size
    folder = tmp_path_factory.mktemp("shard")
    source = encode_header(tensors, {"format": "pt"})
    (folder / "source").write_bytes(source + content)
    shard = Shard(folder / "source", len(source), tuple(tensors), {"format": "pt"})
    names = {f"t.{number}": f"new.{number}" if kept[number] else None for number in range(len(sizes))}
    layout = lay_out(shard, lambda name: names.get(name, name))

    moved = []
    write_layout(folder / "source", folder / "target", layout, moved.append, block=None)
    written = read_shard(folder / "target")
    raw = (folder / "target").read_bytes()
    assert len(raw) == layout.size
    assert written.data_start % 8 == 0
    assert written.metadata == {"format": "pt"}
    found = {t.name: raw[written.data_start + t.start : written.data_start + t.end] for t in written.tensors}
    assert found == {f"new.{n}": bytes([n + 1]) * size for n, size in enumerate(sizes) if kept[n]}
    assert layout.whole == all(kept[n] and names[f"t.{n}"] == f"t.{n}" for n in range(len(sizes)))
    assert sum(moved) == sum(part.length for part in layout.ranges)
    assert layout.size == len(layout.header) + sum(moved)
    assert all(a.source + a.length < b.source for a, b in pairwise(layout.ranges))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_coalesced_pieces_cover_the_same_bytes(gaps):
    pieces, place = [], 0
    for gap, length in gaps:
        pieces.append((place + gap, length))
        place += gap + length
    joined = coalesce(pieces)
    covered = [byte for start, length in pieces for byte in range(start, start + length)]
    assert [byte for start, length in joined for byte in range(start, start + length)] == covered
    assert all(sum(a) < b[0] for a, b in pairwise(joined))


def test_two_tensors_under_one_name_are_refused(tmp_path):
    tensors = (Tensor("a", "U8", (1,), 0, 1), Tensor("b", "U8", (1,), 1, 2))
    with pytest.raises(ValueError, match="one name"):
        lay_out(Shard(tmp_path / "x", 8, tensors, {}), lambda name: "c")


def test_a_source_that_shrinks_is_noticed(tmp_path):
    tensors = (Tensor("a", "U8", (100,), 0, 100),)
    header = encode_header(tensors, {})
    (tmp_path / "source").write_bytes(header + bytes(50))
    layout = lay_out(Shard(tmp_path / "source", len(header), tensors, {}), lambda name: name)
    with pytest.raises(CheckpointError, match="became shorter"):
        write_layout(tmp_path / "source", tmp_path / "target", layout, lambda count: None, block=None)


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_counts_its_elements(dtype):
    assert Tensor("t", dtype, (8,), 0, BITS[dtype]).elements == 8


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_are_renumbered():
    names = LayerNames("model.layers.")
    places = {0: 0, 12: 1}
    assert names.renamed("model.layers.12.mlp.up_proj.weight", places) == "model.layers.1.mlp.up_proj.weight"
    assert names.renamed("model.layers.12", places) == "model.layers.1"
    assert names.renamed("model.layers.1.mlp.experts.12.weight", {1: 12}) == "model.layers.12.mlp.experts.12.weight"
    assert names.renamed("model.layers.2.mlp.up_proj.weight", places) is None
    for other in ("model.norm.w", "lm_head.w", "vision.model.layers.2.x", "model.layers.x", "model.layers.02.x"):
        assert names.renamed(other, places) == other


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.0.w", "a.2.w"], r"a\.1 are missing"),
        (["a.1.w"], r"a\.0 are missing"),
        (["a.0.w", "b.0.w"], "under a. and under b. at once"),
        (["c.0.w"], "no tensor is named a.0 or b.0"),
        (["a.0.w", "a.999999.w"], r"a\.1 are missing"),
    ],
)
def test_layer_numbers_must_be_plain(names, message):
    with pytest.raises(CheckpointError, match=message):
        find_layer_names(names, ("a.", "b."), "here", ())
