"""tensorboard reads the log of a healing: the curve that heal.json has."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.other_tools import answer, installed

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6


def test_it_reads_the_curve_of_a_healing(cut_model, sample_text, tmp_path, checked):
    """Regrowth runs in this environment: tensorboard is what writes the log, too."""
    with installed("tensorboard", "tensorboard==2.21.0", linked=("regrowth",)) as tool:
        checked(tool.version("tensorboard"), "the log of `heal qlora --report-to tensorboard`: the losses of heal.json")
        words = ["heal", "qlora", cut_model, "--text", sample_text, "--out", tmp_path / "adapter", "--rank", 4]
        words += ["--report-to", "tensorboard", "--tokens", STEPS * 256, "--length", 128, "--batch-size", 2]
        words += ["--accumulate", 1, "--eval-every", 2, "--held-out-tokens", 256, "--checkpointing", "off"]
        line = [tool.python, "-m", *map(str, words)]
        done = subprocess.run(line, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        told = answer(tool, "read_scalars.py", tmp_path / "adapter" / "tensorboard", folder=tmp_path)
    curve = json.loads((tmp_path / "adapter" / "heal.json").read_text())["curve"]
    assert [point["step"] for point in curve] == [0, 2, 4, 6]
    assert told["eval/loss"] == [[point["step"], pytest.approx(point["held_out_loss"], abs=1e-5)] for point in curve]
    steps = dict(told["train/loss"])
    assert sorted(steps) == list(range(1, STEPS + 1))
    for before, point in itertools.pairwise(curve):
        between = [steps[step] for step in range(before["step"] + 1, point["step"] + 1)]
        assert sum(between) / len(between) == pytest.approx(point["loss"], abs=1e-5)
    rates = [value for _, value in told["train/learning_rate"]]
    assert len(rates) == STEPS
    assert max(rates) > 0
