"""Memory that was freed is given back, so that a process that comes next has it."""

import subprocess
import sys

import pytest

HELD = """
import sys
from prune.common.memory import give_back, resident
kept = [bytearray(100_000) for _ in range(2000)]  # blocks below the size from which glibc maps each by itself
pins = [bytearray(64) for _ in range(10)]
full = resident()
del kept
give_back()
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_was_freed_is_given_back():
    given = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True).stdout
    assert int(given) > 150e6
