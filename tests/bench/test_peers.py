"""bench/peers: the table of ratios, how a command is measured, and what the comparisons compare."""

import json
import math
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.peers import __main__ as command
from bench.peers import record
from bench.peers import table as tables
from bench.peers.ask import apart, our_answers, their_answers
from bench.peers.cut import Case, equal_tensors, slices
from bench.peers.record import THREADS, bytes_under, measure
from bench.peers.scan import agreement
from bench.peers.table import machines, table, write_table
from bench.peers.turns import figures, take_turns
from bench.shared import environments

MACHINE = {"cpu": "A CPU", "cores": 2, "avx512_bf16": False, "memory_gib": 24, "python": "3.11.7"}
OURS = {"tool": "Regrowth 1", "seconds": 2.0, "peak_mib": 100.0, "disk_mib": 50, "loss_nats": 3.5, "tensors_equal": 7}
PEER = {"tool": "peer 2", "seconds": 6.0, "peak_mib": 40.0, "disk_mib": 50, "loss_nats": 3.25, "tensors_equal": 8}


def result(name, *rows, machine=MACHINE):
    return {"name": name, "job": f"job {name}", "machine": machine, "settings": {"threads": 2}, "rows": list(rows)}


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_a_peer_is_divided_by_regrowth_and_bold_where_it_is_ahead():
    first, second = rows_of(table([result("cut", OURS, PEER)]))
    assert first[:6] == ["job cut (`cut`)", "Regrowth 1", "2 s", "-", "100 MiB", "50 MiB"]
    assert second[:6] == ["", "peer 2", "3.00x", "-", "**0.40x**", "1.00x"]
    assert second[6] == "**loss nats 3.25**; tensors equal 8"
    assert "**" not in first[6]


def test_of_figures_where_more_is_better_the_greater_one_is_bold():
    ours, peer = {"tool": "Regrowth 1", "tokens_per_second": 5.0}, {"tool": "peer 2", "tokens_per_second": 4.0}
    assert "**" not in table([result("heal", ours, peer)])
    assert "**tokens per second 5**" in table([result("heal", peer, ours)])


def test_an_interval_stands_with_its_figure():
    ours = {"tool": "Regrowth 1", "lost": {"medical": {"bits": 2.0, "bits_low": 1.0, "bits_high": 3.0}}}
    peer = {"tool": "peer 2", "lost": {"medical": {"bits": 1.5, "bits_low": 0.5, "bits_high": 2.5}}}
    first, second = rows_of(table([result("whole", ours, peer)]))
    assert first[6] == "lost, medical, bits 2 [1, 3]"
    assert second[6] == "**lost, medical, bits 1.5 [0.5, 2.5]**"


def test_what_did_not_run_has_its_reason():
    _, second = rows_of(table([result("cut", OURS, {"tool": "peer 2", "not_run": "needs a | b"})]))
    assert second == ["", "peer 2", "-", "-", "-", "-", "not run: needs a / b"]


def test_the_page_has_all_results_in_the_order_asked_for(tmp_path):
    for name in ("ask-run", "cut", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name, OURS, PEER)))
    shown = write_table(tmp_path, ["cut", "ask"])
    assert [row[0] for row in rows_of(shown)[::2]] == [f"job {name} (`{name}`)" for name in ("cut", "ask-run", "other")]
    page = (tmp_path / "README.md").read_text()
    assert shown in page
    assert tables.HEAD in page
    assert "- `cut`: threads 2" in page
    assert page.endswith("Measured on: A CPU, 2 cores, 24 GiB, without bf16 products, Python 3.11.7.\n")


def test_a_result_tells_how_busy_the_machine_was(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record.os, "getloadavg", lambda: (1.0, 7.25, 3.0))
    path = record.write("cut", "a cut", [OURS, PEER], settings={"threads": 2})
    found = json.loads(path.read_text())
    assert (found["rows"], found["job"]) == ([OURS, PEER], "a cut")
    assert tables.settings(found) == "- `cut`: threads 2; load average 7.2"


def test_two_machines_are_told_apart():
    found = [result("cut", OURS), result("ask", OURS, machine=MACHINE | {"cores": 4})]
    first, second = machines(found).splitlines()
    assert first.startswith("- Measured on A CPU, 2 cores")
    assert first.endswith(": cut.")
    assert second.endswith(": ask.")


HOLD = "import time; held = b'x' * (64 << 20); time.sleep(0.5); print('held', len(held))"


def test_a_command_is_measured_with_what_it_started():
    inner = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {HOLD!r}]).returncode)"
    run = measure([sys.executable, "-c", inner], limit_s=60)
    assert run.code == 0
    assert run.said.strip() == f"held {64 << 20}"
    assert 64 << 20 < run.most < 128 << 20
    assert 0.5 < run.seconds < 60
    assert 0 < run.cpu_seconds < run.seconds + 1


def test_a_command_past_its_limit_is_ended():
    began = time.monotonic()
    run = measure([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.3)
    assert run.code == -9
    assert time.monotonic() - began < 30
    assert figures("slow", [run]) == {"tool": "slow", "not_run": "stopped after 0 s"}


def test_a_command_does_not_outlive_an_interrupted_measurement(tmp_path, monkeypatch):
    def interrupt(process):
        (tmp_path / "pid").write_text(str(process))
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "held_by_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(["sleep", "60"], limit_s=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_commands_see_the_threads_of_all_and_no_project():
    words = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'], 'PYTHONPATH' in os.environ)"]
    assert measure(words, limit_s=60).said.split() == [str(THREADS), "False"]
    assert measure(words, limit_s=60, variables={"PYTHONPATH": "x"}).said.split() == [str(THREADS), "True"]


def test_commands_take_turns_and_a_failed_one_is_not_asked_again():
    order = []
    ways = {"a": ["true"], "b": ["false"], "c": ["true"]}
    found = take_turns(ways, 2, limit_s=10, after=lambda name, run: order.append(name))
    assert order == ["a", "b", "c", "c", "a"]
    assert {name: len(runs) for name, runs in found.items()} == {"a": 2, "b": 1, "c": 2}
    assert figures("b", found["b"]) == {"tool": "b", "not_run": "exit code 1"}
    row = figures("a", found["a"], tensors_equal=3)
    assert row["fastest"] <= row["seconds"] <= row["slowest"]
    assert row["tensors_equal"] == 3


@pytest.mark.parametrize("size", [0, 5])
def test_bytes_of_a_folder(tmp_path, size):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(b"x" * size)
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "file")
    assert bytes_under(tmp_path) == size


def checkpoint(folder, **changed):
    folder.mkdir()
    some = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)} | changed
    for name, tensor in some.items():
        save_file({name: tensor}, folder / f"{name}.safetensors")
    return folder


def test_tensors_are_compared_by_name_type_shape_and_bytes(tmp_path):
    one = checkpoint(tmp_path / "one")
    assert equal_tensors(one, checkpoint(tmp_path / "same")) == {"tensors_byte_equal": "2 of 2"}
    other = {"values": torch.arange(6.0).reshape(2, 3) + 1, "shape": torch.arange(6.0), "type": torch.arange(6).int()}
    for name, tensor in other.items():
        assert equal_tensors(one, checkpoint(tmp_path / name, a=tensor)) == {"tensors_byte_equal": "1 of 2"}, name
    more = checkpoint(tmp_path / "more", c=torch.zeros(1))
    assert equal_tensors(one, more) == equal_tensors(more, one) == {"tensors_byte_equal": "2 of 3"}


def test_slices_leave_out_the_dropped_layers():
    case = Case("cut", "a cut", Path("model"), 30, 12, 17, "float32", 1)
    ranges = [part["sources"][0]["layer_range"] for part in json.loads(slices(case))["slices"]]
    assert ranges == [[0, 12], [18, 30]]
    case = Case("cut", "a cut", Path("model"), 30, 24, 29, "float32", 1)
    assert [part["sources"][0]["layer_range"] for part in json.loads(slices(case))["slices"]] == [[0, 24]]


def test_blocks_with_the_last_layer_are_compared_apart():
    mine = [[0.1, 0.2, 0.3], [0.4, 0.5], [0.6]]
    peer = {"distance": [[0.1, 0.25, 0.4], [0.4, 0.3], [0.6]], "best": {"1": 0, "2": 1}}
    found = agreement(mine, {"1": 0, "2": 0}, peer, block=2)
    assert found["distances_apart"] == pytest.approx(0.05)
    assert found["of_blocks_with_the_last_layer"] == pytest.approx(0.2)
    assert (found["block_of_2"], found["sizes_with_our_block"]) == (1, "1 of 2")


def test_answers_of_both_are_read_and_compared(tmp_path):
    bits = [1.0 / math.log(2), 2.0 / math.log(2)]
    rows = [{"id": name, "answer_nll_bits": one, "correct": True} for name, one in zip("xy", bits, strict=True)]
    (tmp_path / "samples_a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logged = [
        {"doc": {"id": "x", "answer": 1}, "filtered_resps": [["-9", "False"], ["-1.5", "False"]], "acc_norm": 1.0},
        {"doc": {"id": "y", "answer": 0}, "filtered_resps": [["-2", "False"], ["-1", "False"]], "acc_norm": 0.0},
    ]
    (tmp_path / "theirs" / "model").mkdir(parents=True)
    path = tmp_path / "theirs" / "model" / "samples_b.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in logged))
    mine, theirs = our_answers(tmp_path), their_answers(tmp_path / "theirs")
    assert len(mine) == 1
    found = apart(mine, [theirs])
    assert found == {"log_likelihoods_apart": pytest.approx(0.5), "same_verdict": "1 of 2"}


def test_one_comparison_that_fails_or_is_not_there_stops_no_other(tmp_path, monkeypatch, capfd):
    (tmp_path / "bench_peers_fails.py").write_text("def main():\n    raise SystemExit('cannot')\n")
    (tmp_path / "bench_peers_works.py").write_text("def main():\n    print('measured')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(command, "PREFIX", "bench_peers_")
    assert [command.compare(name) for name in ("missing", "fails", "works")] == [True, False, True]
    said = capfd.readouterr()
    assert "== missing: skipped" in said.out
    assert "== fails: failed with exit code 1" in said.out
    assert "measured" in said.out
    assert "cannot" in said.err


def wheel(folder):
    """A distribution of one module, packed by hand: pip installs it without a network or a build."""
    path = folder / "tinytool-1.2-py3-none-any.whl"
    about = "tinytool-1.2.dist-info"
    parts = {
        "tinytool.py": "def main():\n    print('tiny')\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: tinytool\nVersion: 1.2\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\ntiny = tinytool:main\n",
    }
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in parts.items():
            packed.writestr(name, text)
        packed.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in [*parts, f"{about}/RECORD"]))
    return path


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "PLACE", tmp_path / "environments")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    monkeypatch.delenv("REGROWTH_KEEP_ENVIRONMENTS", raising=False)
    return tmp_path


def test_an_environment_has_the_tool_and_what_is_linked_and_goes_after_use(offline):
    with environments.environment("tiny", [str(wheel(offline))], linked=("jinja2",), keep=True) as made:
        assert made.version("tinytool") == "tinytool 1.2"
        assert measure([made.command("tiny")], limit_s=60).said == "tiny\n"
        seen = made.run("-c", "import jinja2, markupsafe, sys; print(jinja2.__file__); import torch")
        assert Path(seen.stdout.strip()).parent.parent == made.place / "shared"
        assert "No module named 'torch'" in seen.stderr
    with environments.environment("tiny", ["none"], linked=()) as again:  # what was kept is taken as it is
        assert again.version("tinytool") == "tinytool 1.2"
    assert not again.place.exists()


def test_what_pip_cannot_have_is_an_error_with_its_reason(offline):
    with (
        pytest.raises(environments.NotInstallableError, match="No matching distribution found for tinytool"),
        environments.environment("tiny", ["tinytool==9"], linked=()),
    ):
        pass
    assert not (environments.PLACE / "tiny").exists()
