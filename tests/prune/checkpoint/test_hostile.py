"""Mutated headers, indexes and configs end in CheckpointError or success: no other exception, no hang, bounded memory.

The mutants are drawn from fixed seeds in a process of its own, whose memory and time are limited.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkpoints import hashes, synthetic_checkpoint
from tests.support.commands import check_refused, run

MUTANTS = 2_000  # in every run; the slow tests draw more
SECONDS = 400  # for so many, on a machine with much other work; a hang takes longer
MEMORY = 1 << 30  # bytes of address space; the interpreter alone takes about a third


@pytest.mark.parametrize(
    ("seed", "mutants"), [(1, MUTANTS), *(pytest.param(seed, 5 * MUTANTS, marks=pytest.mark.slow) for seed in (2, 3))]
)
def test_mutated_checkpoints_are_refused_or_read_and_nothing_else(tmp_path, seed, mutants):
    folder = synthetic_checkpoint(tmp_path / "model", rows=1)
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        "from tests.support.mutants import fuzz\n"
        "fuzz(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, folder, str(seed), str(mutants)],
        capture_output=True,
        text=True,
        timeout=SECONDS * mutants // MUTANTS,
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
    assert sum(ended.values()) == mutants
    assert min(ended.values()) > mutants // 50  # both ends are reached, or the mutants are all alike


# --- by hand -------------------------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rename_layer(folder: Path, old: bytes, new: bytes) -> None:
    for path in [*folder.glob("*.safetensors"), folder / INDEX]:
        path.write_bytes(path.read_bytes().replace(old, new))


def pickled(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.rename(path.with_suffix(".bin"))


# Through the command; test_checkpoint.py has the headers and indexes that are refused.
HOSTILE = {
    "shard missing": (lambda f: (f / "model-00001-of-00004.safetensors").unlink(), "model-00001-of-00004"),
    "no family": (lambda f: (f / "config.json").write_text('{"model_type": "unheard-of"}'), "'unheard-of' models"),
    "pickles": (pickled, "save_pretrained"),
    "deep index": (lambda f: (f / INDEX).write_text('{"weight_map":' + "[" * 10**6), INDEX),
    "deep config": (lambda f: (f / "config.json").write_text('{"a":' * 10**6), "config.json"),
    "config of 101 MB": (lambda f: (f / "config.json").write_bytes(b" " * 101_000_000), "config.json"),
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
    check_refused(run("prune", "cut", folder, "--layers", "1", "--out", tmp_path / "out"), 1, named)
    assert hashes(tmp_path) == before
