"""`heal` of which the second process gets a SIGTERM in the step before one is done; see test_heal_processes.py.

torchrun --nproc-per-node 2 stopped_heal.py STEP qlora MODEL ...
"""

import os
import signal
import sys

import heal.loop
from heal.cli import app


def stop_at(step: int) -> None:
    """Let a SIGTERM come to the second process while it does this step (1-based)."""
    train, sent = heal.loop._Loop.training_step, []

    def training_step(self, *arguments, **named):
        if self.state.global_step == step - 1 and os.environ["RANK"] == "1" and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return train(self, *arguments, **named)

    heal.loop._Loop.training_step = training_step


if __name__ == "__main__":
    stop_at(int(sys.argv[1]))
    app(sys.argv[2:], prog_name="heal")
