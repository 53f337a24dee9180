"""What is free, and that memory that was freed is given back, so that a process that comes next has it."""

import subprocess
import sys

import pytest

from prune.common.machine import memory

HELD = """
import sys
from prune.common.machine.memory import give_back, resident
kept = [bytearray(100_000) for _ in range(2000)]  # blocks below the size from which glibc maps each by itself
pin = bytearray(90_000)  # above them, so that the heap does not shrink by itself
full = resident()
del kept
alone = full - resident()
give_back()
print(alone, full - resident())
"""


@pytest.mark.parametrize(
    ("limit", "stat", "left"),
    [
        ("1000", "anon 500\ninactive_file 200\nactive_file 100\n", 300),
        ("1000", None, 0),
        ("1000", "anon 500\n", 0),
        ("max", "inactive_file 200\nactive_file 100\n", None),
    ],
)
def test_files_that_a_container_has_read_count_as_free(tmp_path, monkeypatch, limit, stat, left):
    """Its limit counts the page cache, which goes where memory is asked for."""
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("1000\n")
    if stat is not None:
        (tmp_path / "memory.stat").write_text(stat)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available() == left if left is not None else memory.available() > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_was_freed_is_given_back():
    told = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    alone, given = map(int, told.split())
    assert given > 150e6 > alone
