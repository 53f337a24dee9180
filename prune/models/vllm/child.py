"""The process that holds vLLM's engine: it reads orders from its parent and sends their answers back.

vLLM gives a model's memory back only when its process ends; so each model has one of its own. It ends with its parent,
however that ends.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from prune.common.machine.children import STOP


def main(descriptor: int) -> None:
    """Serve the parent at the other end of a pipe; the first order makes the model, each later one asks it."""
    parent = Connection(descriptor)
    orders: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(parent, orders), daemon=True).start()
    model: Any = None
    while (order := orders.get()) != STOP:
        try:
            if model is None:
                model = _make(*order)
                parent.send(("facts", model.facts))
            else:
                parent.send(("answers", model.answer(*order)))
        except Exception as error:
            traceback.print_exc()  # to the log that the parent keeps
            parent.send(("error", f"{type(error).__name__}: {error}"))


def _make(module: str, name: str, options: dict[str, Any]) -> Any:
    return getattr(import_module(module), name)(**options)  # vLLM is imported here


def _listen(parent: Connection, orders: queue.Queue[Any]) -> None:
    try:
        while True:
            orders.put(parent.recv())
    except (EOFError, OSError):  # the parent is gone: end with all workers, which are of our group
        os.killpg(os.getpgid(0), signal.SIGKILL)
