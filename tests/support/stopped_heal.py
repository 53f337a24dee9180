"""`heal` of which the second process gets a SIGTERM in the step before one is done; see test_heal_processes.py.

torchrun --nproc-per-node 2 stopped_heal.py STEP qlora MODEL ...
"""

import os
import signal
import sys

import pytest
from healing_steps import in_step

from heal.cli import app


def stop_at(step: int) -> None:
    """Let a SIGTERM come to the second process while it does this step (1-based)."""
    if os.environ["RANK"] == "1":
        in_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM), pytest.MonkeyPatch())


if __name__ == "__main__":
    stop_at(int(sys.argv[1]))
    app(sys.argv[2:], prog_name="heal")
