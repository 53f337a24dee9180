"""The process that measures: torch is imported there once, and each turn is a fork of it, which ends with its turn.

So no model shares memory with another one, or with the process that asked the questions, and none of a turn's figures
hangs on the turns before. A fork is safe there because nothing is computed before it: parameters are counted on a
model without values.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from functools import cache
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from prune.common.errors import RegrowthError, first_line
from prune.common.machine.children import STOP
from prune.common.machine.out_of_memory import is_out_of_memory

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
        try:
            parameters = counted(order["folder"], order["name"])
        except RegrowthError as error:
            parent.send(("error", str(error)))
            continue
        parent.send(_in_fork(order, parameters, parent) if FORKS else measured(order, parameters))


def _warm_up() -> None:
    """Import what no turn has to import then."""
    from prune.common.screen.terminal import quiet_libraries

    quiet_libraries()
    from transformers import AutoModelForCausalLM  # noqa: F401

    import eval.gains.turn  # noqa: F401


@cache
def counted(folder: str, name: str) -> int:
    """Parameters of a model. Its class is imported for that, which no turn has to do then."""
    from pathlib import Path

    from eval.gains.turn import count_parameters
    from prune.checkpoint.source import Source

    return count_parameters(Source(Path(folder), name))


def measured(order: dict[str, Any], parameters: int) -> tuple[str, Any]:
    """("turn", the fields of a `Turn`), or ("error", why there is none)."""
    from eval.gains.orders import TurnOrder
    from eval.gains.turn import measure_turn

    try:
        return "turn", asdict(measure_turn(TurnOrder(**order), parameters))
    except RegrowthError as error:
        return "error", str(error)
    except Exception as error:
        return "error", OUT_OF_MEMORY if is_out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"


def _in_fork(order: dict[str, Any], parameters: int, parent: Connection) -> tuple[str, Any]:
    ours, theirs = Pipe(duplex=False)
    number = os.fork()
    if number == 0:
        try:
            theirs.send(measured(order, parameters))
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
