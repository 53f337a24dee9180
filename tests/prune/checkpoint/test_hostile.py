"""Mutated headers, indexes and configs end in CheckpointError or success: no other exception, no hang, bounded memory.

The mutants are drawn from fixed seeds in a process of its own, whose memory and time are limited.
"""

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prune.cli import app
from tests.support.checkpoints import hashes, synthetic_checkpoint

SEEDS = (1, 2)
MUTANTS = 10_500  # a seed
MEMORY = 1 << 30  # bytes of address space; the interpreter alone takes about a third

NUMBERS = (0, 1, 2, 7, 8, 9, 255, 4096, 10**8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, -1, -8, 1.5, 1e308)
WORDS = (
    "",
    ".",
    "..",
    "/",
    "../x.safetensors",
    "/etc/passwd",
    "F32",
    "BF16",
    "F4",
    "I64",
    "F33",
    "a\0b",
    "\ud800",
    "é",
)
WORDS += ("model.layers.0.w", "model.layers.-1.w", "model.layers.99999999999.w", "__metadata__", "one.safetensors")


def mutate_value(value, draw):
    """A JSON value changed in one place, or replaced."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        changed = dict(value)
        what = draw.randrange(5)
        if what == 0:
            del changed[key]
        elif what == 1:
            changed[draw.choice(WORDS)] = changed.pop(key)
        elif what == 2:
            changed[draw.choice(WORDS)] = changed[key]
        else:
            changed[key] = mutate_value(value[key], draw)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.85:
        changed = list(value)
        place = draw.randrange(len(changed))
        what = draw.randrange(4)
        if what == 0:
            del changed[place]
        elif what == 1:
            changed.insert(place, draw.choice(NUMBERS))
        else:
            changed[place] = mutate_value(changed[place], draw)
        return changed
    if isinstance(value, int) and draw.random() < 0.4:
        return value + draw.choice((-8, -4, -1, 1, 4, 8))
    return draw.choice((draw.choice(NUMBERS), draw.choice(WORDS), None, True, [], {}, [1, [2]], {"a": {}}))


def mutate_bytes(content: bytes, draw) -> bytes:
    """Some bytes overwritten, removed, put in, or said twice."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(changed) + 1)
        what = draw.randrange(4)
        if what == 0:
            changed[place : place + 1] = draw.randbytes(1)
        elif what == 1:
            del changed[place : place + draw.randint(1, 40)]
        elif what == 2:
            changed[place:place] = draw.choice((b'"', b"{", b"[", b"}", b",", b"\\u0000", b"9" * 40, b"[" * 3000))
        else:
            changed[place:place] = changed[place : place + draw.randint(1, 60)]
    return bytes(changed)


def framed(text: bytes, data: bytes, draw) -> bytes:
    """A header's text as a file, its length at times a lie."""
    length = len(text)
    if draw.random() < 0.15:
        length = draw.choice((0, 1, length - 1, length + 1, 1 << 20, 10**8, 10**8 + 1, 1 << 40, 2**63, 2**64 - 1))
    return struct.pack("<Q", length % 2**64) + text + data


def fuzz(folder: str, seed: int, count: int) -> None:
    """Mutate a checkpoint `count` times, and read and plan it each time; prints how the attempts ended."""
    import logging

    from prune.common.errors import CheckpointError, UsageError
    from prune.families.subject import open_subject

    logging.disable()
    place, draw = Path(folder), random.Random(seed)
    names = [
        "config.json",
        "model.safetensors.index.json",
        *(f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)),
    ]
    sound = {name: (place / name).read_bytes() for name in names}
    ended, longest = {"read": 0, "refused": 0}, 0
    for _ in range(count):
        name = draw.choice([*names[:2], *names])
        content = sound[name]
        if name.endswith(".json"):
            text, data = content, None
        else:
            cut = 8 + struct.unpack("<Q", content[:8])[0]
            text, data = content[8:cut], content[cut:]
        if draw.random() < 0.6:
            document = mutate_value(json.loads(text), draw)
            text = json.dumps(document).encode("utf-8")
        else:
            text = mutate_bytes(text, draw)
        changed = text if data is None else framed(text, data, draw)
        (place / name).write_bytes(changed)
        try:
            subject = open_subject(place)
            for layout in subject.layouts(range(1, subject.layers)):
                assert layout[1].size < 10 * len(b"".join(sound.values()))
            ended["read"] += 1
        except (CheckpointError, UsageError) as error:
            longest = max(longest, len(str(error)))
            ended["refused"] += 1
        finally:
            (place / name).write_bytes(content)
    print(json.dumps({**ended, "longest": longest}))


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_checkpoints_are_refused_or_read_and_nothing_else(tmp_path, seed):
    folder = synthetic_checkpoint(tmp_path / "model", rows=1)
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        "from tests.prune.checkpoint.test_hostile import fuzz\n"
        "fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder, str(seed), str(MUTANTS)],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ended = json.loads(done.stdout)
    assert ended.pop("longest") < 10_000  # characters; some messages list all families
    assert sum(ended.values()) == MUTANTS
    assert min(ended.values()) > MUTANTS // 50  # both ends are reached, or the mutants are all alike


# --- by hand -------------------------------------------------------------------------------------------------------

FIRST = "model-00001-of-00004.safetensors"
INDEX = "model.safetensors.index.json"


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rename_layer(folder: Path, old: bytes, new: bytes) -> None:
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.write_bytes(path.read_bytes().replace(old, new))


def link_elsewhere(folder: Path) -> None:
    target = folder.parent / "elsewhere.safetensors"
    (folder / FIRST).rename(target)
    (folder / FIRST).symlink_to(target)


HOSTILE = {
    "header of 2 GB claimed": (lambda f: (f / FIRST).write_bytes(struct.pack("<Q", 1 << 31)), FIRST),
    "header beyond the file": (lambda f: (f / FIRST).write_bytes(struct.pack("<Q", 5000) + b"{}"), FIRST),
    "deep index": (lambda f: (f / INDEX).write_text('{"weight_map":' + "[" * 10**6), INDEX),
    "deep config": (lambda f: (f / "config.json").write_text('{"a":' * 10**6), "config.json"),
    "config of 101 MB": (lambda f: (f / "config.json").write_bytes(b" " * 101_000_000), "config.json"),
    "parent in the index": (
        lambda f: edit(f / INDEX, lambda d: d["weight_map"].update({"lm_head.weight": "../x.safetensors"})),
        INDEX,
    ),
    "absolute path in the index": (
        lambda f: edit(f / INDEX, lambda d: d["weight_map"].update({"lm_head.weight": "/x.safetensors"})),
        INDEX,
    ),
    "shard missing": (lambda f: (f / FIRST).unlink(), FIRST),
    "shard linked from elsewhere": (link_elsewhere, FIRST),
    "a tensor in two shards": (
        lambda f: (f / FIRST).write_bytes((f / FIRST.replace("1-", "2-")).read_bytes()),
        "00002",
    ),
    "layer numbers skip": (lambda f: rename_layer(f, b"layers.3.", b"layers.9."), "model.layers.3"),
    "more layers than counted": (
        lambda f: edit(f / "config.json", lambda d: d.update(num_hidden_layers=6)),
        "config.json counts 6",
    ),
    "a billion layers": (
        lambda f: edit(f / "config.json", lambda d: d.update(num_hidden_layers=10**9)),
        "config.json counts 1000000000",
    ),
}


@pytest.mark.parametrize(("spoil", "named"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_hostile_is_refused_in_one_line_that_names_it(tmp_path, spoil, named):
    folder = synthetic_checkpoint(tmp_path / "model", rows=4)
    spoil(folder)
    before = hashes(tmp_path)
    result = CliRunner().invoke(app, ["cut", str(folder), "--layers", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert named in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert hashes(tmp_path) == before
