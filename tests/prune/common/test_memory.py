"""Memory that was freed is given back, so that a process that comes next has it."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_was_freed_is_given_back():
    told = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    alone, given = map(int, told.split())
    assert given > 150e6 > alone
