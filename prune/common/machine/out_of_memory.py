"""Memory that ran out: how to tell it from other errors, and what a command can lower."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Mapping
from typing import Any

# CUDA, Apple's devices, torch's CPU allocator, cuBLAS and cuDNN, and the kernel each have words of their own.
_WORDS = re.compile(r"out of memory|allocate memory(?! in static TLS)|_ALLOC_FAILED", re.IGNORECASE)
_SIZE = re.compile(r"tried to allocate ([0-9.]+ ?[A-Za-z]+)", re.IGNORECASE)

# Option -> what to do with it, and the values with which that is done already. In order of what costs least.
_REMEDIES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "--batch-size": ("a smaller --batch-size", (1, "1")),
    "--batch-tokens": ("a smaller --batch-tokens", ()),
    "--length": ("a smaller --length", ()),
    "--lengths": ("shorter --lengths", ()),
    "--max-length": ("a smaller --max-length", ()),
    "--checkpointing": ("--checkpointing on", ("on",)),
    "--bits": ("--bits 4", (4, None)),  # None: of a model that is to be fitted, not of one that is loaded
    "--load-in-4bit": ("--load-in-4bit", (True,)),
    "--max-memory": ("a --max-memory below what is free, so that few layers stand there at once", ()),
    "--check": ("--check 0", (0,)),
    "--logits": ("no --logits", (False,)),
    "--no-compare-logits": ("--base original with --no-compare-logits", ()),
    "--device": ("--device cpu", ("cpu",)),
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on a GPU, in torch's CPU allocator, in Python or in the kernel."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # what has not been imported has raised nothing
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | OSError | ValueError) and bool(_WORDS.search(str(error)))


def describe_out_of_memory(error: BaseException, options: Mapping[str, Any]) -> str:
    """One line: how much did not fit, where the error tells, and which of the command's own options need less.

    Args:
        options: the command's options and their values, such as {"--batch-size": 4}.
    """
    size = _SIZE.search(str(error))
    line = f"out of memory ({size[1]} more did not fit)" if size else "out of memory"
    if isinstance(error, MemoryError | OSError) or "CPU" in str(error):
        options = {name: value for name, value in options.items() if name != "--device"}
    needs_less = [words for name, (words, done) in _REMEDIES.items() if name in options and options[name] not in done]
    return f"{line}; what needs less: {', '.join(needs_less)}" if needs_less else line
