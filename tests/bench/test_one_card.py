"""bench/one_card.py: its model is 1.7 times the cap, and the chain passes at its smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.one_card import SHAPES, TIMES, make

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_is_so_many_times_the_cap(name):
    shape = SHAPES[name]
    size = shape.layers * shape.layer + 2 * shape.table
    assert TIMES <= size / shape.cap < TIMES + shape.layer / shape.cap
    assert 0 < shape.dropped < shape.layers - 1


def test_what_is_written_is_what_is_reckoned(tmp_path):
    shape = SHAPES["tiny"]
    norms = 2 * shape.width * (2 * shape.layers + 1)
    assert make(tmp_path / "full", shape) == shape.layers * shape.layer + 2 * shape.table + norms


@pytest.mark.slow
def test_the_chain_passes_at_its_smallest_size(tmp_path):
    command = [sys.executable, ROOT / "bench" / "one_card.py", "--tiny", "--out", tmp_path / "card.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stations = json.loads((tmp_path / "card.json").read_text())["stations"]
    assert [found["station"] for found in stations] == [
        "scan", "cut, with its check", "scan, 3 x", "cut, 3 x", "patch", "distill, 4 bits", "merge, auto",
        "compare, 4 bits",
    ]  # fmt: skip
    in_4_bits = ("distill, 4 bits", "compare, 4 bits")
    assert all(found["went"] == ("4 bits" if found["station"] in in_4_bits else "layer by layer") for found in stations)
    assert all(found["measured"] > 0 and found["reckoned"] > 0 and not found["failed"] for found in stations)
