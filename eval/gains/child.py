"""The process that measures: torch is imported there once, and each turn is a fork of it, which ends with its turn.

So no model shares memory with another one, or with the process that asked the questions, and none of a turn's figures
hangs on the turns before. A fork is safe there because nothing was computed before it.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from prune.common.children import STOP
from prune.common.errors import RegrowthError, first_line
from prune.common.out_of_memory import is_out_of_memory

FORKS = sys.platform == "linux"  # elsewhere the libraries below torch do not bear it: a turn ends the process
OUT_OF_MEMORY = "out of memory"


def main(descriptor: int) -> None:
    """Serve the parent at the other end of a pipe: an order is the fields of a `TurnOrder`."""
    parent = Connection(descriptor)
    _warm_up()
    while True:
        try:
            order = parent.recv()
        except (EOFError, OSError):  # the parent is gone
            return
        if order == STOP:
            return
        parent.send(_in_fork(order, parent) if FORKS else measured(order))


def _warm_up() -> None:
    """Import what no turn has to import then."""
    from prune.common.terminal import quiet_libraries

    quiet_libraries()
    from transformers import AutoModelForCausalLM  # noqa: F401

    import eval.gains.turn  # noqa: F401


def measured(order: dict[str, Any]) -> tuple[str, Any]:
    """("turn", the fields of a `Turn`), or ("error", why there is none)."""
    from eval.gains.orders import TurnOrder
    from eval.gains.turn import measure_turn

    try:
        return "turn", asdict(measure_turn(TurnOrder(**order)))
    except RegrowthError as error:
        return "error", str(error)
    except Exception as error:
        return "error", OUT_OF_MEMORY if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"


def _in_fork(order: dict[str, Any], parent: Connection) -> tuple[str, Any]:
    ours, theirs = Pipe(duplex=False)
    number = os.fork()
    if number == 0:
        try:
            theirs.send(measured(order))
        finally:
            os._exit(0)
    theirs.close()
    if parent in wait([ours, parent]):  # it waits for the answer, so this is the end of its pipe
        os.kill(number, signal.SIGKILL)
        os._exit(1)
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    _, status = os.waitpid(number, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return answer or ("error", OUT_OF_MEMORY if killed else "its process ended without a word")
