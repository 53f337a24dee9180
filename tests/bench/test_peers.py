"""bench/peers: the table of ratios, and how a command is measured."""

import json
import sys
import time

import pytest

from bench.peers import table as tables
from bench.peers.record import bytes_under, measure
from bench.peers.table import machines, table, write_table
from bench.peers.turns import figures, take_turns

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


def test_commands_see_two_threads_and_no_project():
    words = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'], 'PYTHONPATH' in os.environ)"]
    assert measure(words, limit_s=60).said.split() == ["2", "False"]
    assert measure(words, limit_s=60, variables={"PYTHONPATH": "x"}).said.split() == ["2", "True"]


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
