"""How bytes move: blocks shared where the file system can, shards that do not change linked or kept as they are."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune.checkpoint.copying import shared_block
from prune.checkpoint.headers import read_shard
from prune.checkpoint.layout import Range, aligned, lay_out, split_range
from prune.cutting.cut import cut
from prune.cutting.planning import plan_cut
from prune.cutting.verify import verify_cut
from tests.support.checkpoints import hashes, synthetic_checkpoint, write_shard
from tests.support.commands import check_refused, run, succeed

BLOCK = 4096


@pytest.fixture
def source(tmp_path):
    return synthetic_checkpoint(tmp_path / "source", rows=1_000)


# --- arithmetic ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=12), st.data())
def test_a_padded_header_aligns_the_most_bytes(tmp_path_factory, sizes, data):
    path = tmp_path_factory.mktemp("padding") / "model.safetensors"
    sizes = [8 * size for size in sizes]
    write_shard(path, [(f"t.{number}", "U8", (size,), bytes(size)) for number, size in enumerate(sizes)])
    shard = read_shard(path)
    gone = data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1))
    names = {f"t.{number}": None if number in gone else f"new.{number}" for number in range(len(sizes))}

    def rename(name):
        return names.get(name, name)

    plain = lay_out(shard, rename)
    padded = aligned(plain, BLOCK)
    assert padded.tensors == plain.tensors
    assert len(padded.header) % 8 == 0
    assert 0 <= len(padded.header) - len(plain.header) < BLOCK
    assert padded.header[8:].rstrip(b" ") == plain.header[8:].rstrip(b" ")

    def bytes_aligned(shift):
        return sum(part.length for part in plain.ranges if (part.source - part.target - shift) % BLOCK == 0)

    best = max((bytes_aligned(shift) for shift in range(0, BLOCK, 8)), default=0)
    assert sum(part.length for part in padded.ranges if (part.source - part.target) % BLOCK == 0) == best


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0, 40_000))
def test_a_split_range_is_the_range(source, target, length):
    parts = split_range(Range(source, target, length), BLOCK)
    if parts is None:
        return
    head, middle, tail = parts
    assert (middle.source % BLOCK, middle.target % BLOCK, middle.length % BLOCK) == (0, 0, 0)
    assert max(head.length, tail.length) < BLOCK <= middle.length
    place = 0
    for part in parts:
        assert (part.source, part.target) == (source + place, target + place)
        place += part.length
    assert place == length


# --- links ---------------------------------------------------------------------------------------------------------


def test_unchanged_shards_are_linked_on_request_only(source, tmp_path):
    before = hashes(source)
    for number, options in enumerate(((), ("--link",))):
        out = tmp_path / f"out{number}"
        succeed("prune", "cut", source, "--layers", "4", "--out", out, *options)
        same = [
            name.name
            for name in sorted(out.glob("*.safetensors"))
            if any(os.path.samefile(name, other) for other in source.glob("*.safetensors"))
        ]
        unchanged = ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"]
        assert same == (unchanged if options else [])
        assert verify_cut(source, out, show_progress=False).sound
    succeed("prune", "cut", source, "--layers", "5", "--out", out, "--overwrite")  # links go, the source stays
    assert hashes(source) == before


def test_a_linked_cut_of_a_hub_cache_links_the_blob(source, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in source.iterdir():
        shutil.copyfile(path, blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    out = cut(plan_cut(snapshot, layers="6"), tmp_path / "out", link=True, show_progress=False)
    first = out / "model-00001-of-00004.safetensors"
    assert not first.is_symlink()
    assert os.path.samefile(first, blobs / first.name)


def test_links_across_file_systems_are_refused(source, tmp_path):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev or not os.access(elsewhere, os.W_OK):
        pytest.skip("there is no second file system")
    out = elsewhere / f"regrowth-test-{os.getpid()}" / "out"
    try:
        result = run("prune", "cut", source, "--layers", "4", "--out", out, "--link")
        check_refused(result, 1, "on two file systems")
        assert "leave --link out" in result.stderr
        assert not list(out.parent.iterdir())
        succeed("prune", "cut", source, "--layers", "4", "--out", out)
        assert verify_cut(source, out, show_progress=False).sound
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)


# --- shared blocks -------------------------------------------------------------------------------------------------


@pytest.fixture
def xfs(tmp_path):
    """A small XFS file system that can share blocks; the test is skipped where none can be mounted."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("mkfs.xfs is not installed")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    made = subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], capture_output=True)
    if made.returncode or subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True).returncode:
        pytest.skip("mounting a file system takes root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_blocks_are_shared_where_the_file_system_can(xfs):
    source = synthetic_checkpoint(xfs / "source", rows=40_000)  # 100 MB
    before = hashes(source)
    assert shared_block(source / "model-00001-of-00004.safetensors", xfs) == BLOCK
    free = shutil.disk_usage(xfs).free
    out = cut(plan_cut(source, layers="4"), xfs / "out", show_progress=False)
    taken = free - shutil.disk_usage(xfs).free
    size = sum(path.stat().st_size for path in out.iterdir())
    assert size > 80_000_000
    assert taken < size / 20
    assert verify_cut(source, out, show_progress=False).sound
    shutil.rmtree(source)  # what is shared is not lost with one of its owners
    assert all(read_shard(path).tensors for path in out.glob("*.safetensors"))
    assert hashes(out)["model-00001-of-00004.safetensors"] == before["model-00001-of-00004.safetensors"]


def test_a_file_system_that_cannot_share_says_so(source):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or not os.access(elsewhere, os.W_OK):
        pytest.skip("there is no tmpfs")
    assert shared_block(source / "model-00001-of-00004.safetensors", elsewhere) is None
