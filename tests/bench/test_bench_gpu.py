"""bench/gpu.py on a CPU, with a model of 64 channels: every step runs, and every row is a measurement."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu as gpu_bench
from bench.gpu_steps import STEPS, files, fitting, healing, kernels, loaded
from bench.gpu_steps.measuring import Machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(tmp_path):
    return Machine(tiny=True, device="cpu", work=tmp_path)


def printed(capsys):
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line.removeprefix("ROW ")) for line in lines if line.startswith("ROW ")]
    failed = [row for row in rows if row.get("failed")]
    assert not failed, failed
    return {row["what"]: row for row in rows}


def gpu(*words):
    return subprocess.run([sys.executable, ROOT / "bench" / "gpu.py", *words], capture_output=True, text=True)


def test_training_steps_are_measured_in_every_number_of_bits(machine, capsys):
    distill = healing.Way("distill", "distill", adapter="bfloat16", targets="after-cut")
    for bits, way in (
        (4, distill),
        (8, healing.Way("qlora, before", **healing._BEFORE)),
        (16, healing.Way("qlora", checkpointing=False)),
    ):
        healing.heal_all(machine, "tiny", bits, [way])
    rows = printed(capsys)
    rows = {what: row for what, row in rows.items() if not what.startswith("random weights")}
    assert list(rows) == ["distill (4 bits, 2 x 32)", "qlora, before (8 bits, 2 x 32)", "qlora (16 bits, 2 x 32)"]
    assert all(row["rate"] > 0 and row["seconds"] > 0 and row["budget"] > 0 for row in rows.values())


def test_the_steps_without_training_are_measured(machine, capsys):
    kernels.nf4(machine)
    kernels.masks(machine)
    loaded.loaded(machine)
    loaded.streamed(machine)
    rows = printed(capsys)
    assert all(row["seconds"] > 0 for row in rows.values())
    for name in (
        "scan --tokens last", "check before a cut, batches by device", "sweep of sizes 0-2, batches of 1024 tokens",
        "generation in batches of 2", "self-written text, 2 answers at a time", "2 rows of 64 tokenised by a thread",
        "scan layer by layer",
    ):  # fmt: skip
        assert name in rows


def test_a_prompt_is_measured_beside_what_is_reckoned(machine, capsys):
    fitting.fit(machine)
    rows = printed(capsys)
    assert list(rows) == ["prompts of 256 tokens, 256 at a time", "prompts of 256 tokens, 32 at a time"]
    assert (
        rows["prompts of 256 tokens, 32 at a time"]["budget"] < rows["prompts of 256 tokens, 256 at a time"]["budget"]
    )


def test_an_error_is_a_note_and_a_failure_and_out_of_memory_is_a_note(machine, capsys):
    import torch

    for error in (ValueError("odd"), torch.OutOfMemoryError("CUDA out of memory.")):
        with kernels.measured(machine, str(error)):
            raise error
    rows = [json.loads(line.removeprefix("ROW ")) for line in capsys.readouterr().out.splitlines()]
    assert [row.get("failed") for row in rows] == [True, None]
    assert rows[1]["note"] == "OutOfMemoryError: CUDA out of memory."


def test_a_model_that_cannot_be_made_ends_its_rows_and_not_the_step(machine, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(healing, "random_model", full)
    healing.heal_all(machine, "tiny", 4, [healing.Way("qlora")])
    (row,) = printed(capsys).values()
    assert row["note"] == "OutOfMemoryError: CUDA out of memory."


def test_rows_are_kept_as_they_come_and_a_step_that_hangs_is_stopped(tmp_path, monkeypatch):
    """By whoever stops the run: the rows so far are in the file."""
    seen = []

    def rows(names, tiny, work, seconds, log):
        seen.append((names, seconds))
        yield {"step": names[0], "what": "first"}
        if names == ["nf4"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(gpu_bench, "run_process", rows)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--steps", "machine,nf4,masks", "--work", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        gpu_bench.main()
    assert [row["step"] for row in json.loads((tmp_path / "gpu.json").read_text())] == ["machine", "nf4"]
    assert [names for names, _ in seen] == [["machine"], ["nf4"]]
    assert all(seconds == 3 * STEPS[names[0]].seconds for names, seconds in seen)


def test_processes_and_the_table(tmp_path):
    done = gpu("--tiny", "--steps", "machine", "--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stderr
    assert "| machine | versions |" in done.stdout
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert rows[0]["what"] == "versions"
    assert not any(row.get("failed") for row in rows)
    done = gpu("--tiny", "--steps", "nothing")
    assert done.returncode == 2
    assert "--steps nothing: use machine, nf4" in done.stderr


@pytest.mark.slow
def test_all_steps(tmp_path):
    done = gpu("--tiny", "--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["step"] for row in rows} >= set(STEPS)
    assert not any(row.get("failed") or row["what"] == "left out" for row in rows)


@pytest.mark.slow
def test_the_commands_on_files(machine, capsys):
    files.files(machine)
    assert {"prune cut --link", "heal patch", "heal merge --base dequantised"} <= set(printed(capsys))
