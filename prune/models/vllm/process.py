"""A model on vLLM, in a process of its own: the engine's memory comes back when it ends, and so the next can start."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError
from prune.common.machine.children import ENDED, ChildProcess
from prune.common.screen.terminal import GROWING
from prune.models.precision import pick_dtype
from prune.models.vllm.options import MEMORY_SHARE, visible_devices, vllm_version

_CHILD = "import sys; sys.path = {path!r}; from prune.models.vllm.child import main; main({descriptor})"


class VllmProcess:
    """A model behind vLLM, served by an object of ours that lives in the engine's process.

    Args:
        serve: module and name of that object's class. It is made from `options`, has `facts`, and `answer`s orders.
        device: from `prune.models.vllm.options.engine_device`.

    Attributes:
        facts: what loading settled.

    Raises:
        CheckpointError: vLLM cannot load the model.
    """

    def __init__(self, serve: tuple[str, str], source: Source, options: Mapping[str, Any], *, device: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix="regrowth-vllm-", suffix=".log")
        self._log = Path(name)
        with open(descriptor, "wb") as log:
            self._process = ChildProcess(_CHILD, environment=_environment(device), log=log)
        try:
            self.facts: dict[str, Any] = self.ask(*serve, dict(options))
        except RegrowthError as error:
            raise CheckpointError(f"{source.name} cannot be loaded by vLLM {vllm_version()} ({error})") from error

    def ask(self, *order: Any) -> Any:
        """What the object answers to an order, which must be of values that can be pickled.

        Raises:
            RegrowthError: vLLM failed; the process has ended, and the message names its log.
        """
        try:
            kind, content = self._process.ask(order)
        except BaseException:
            self.close()
            raise
        if kind in ("error", ENDED):
            why = reason(content, self._log.read_text(errors="replace"))
            kept = self._log.rename(self._log.with_suffix(".failed.log"))
            self._process.close(at_once=True)  # whatever state it is in, it is not worth waiting for
            raise RegrowthError(f"vLLM failed: {why}; its log is {kept}")
        return content

    def close(self) -> None:
        """End the process: in order where it is idle, at once where it is at work."""
        self._process.close()
        self._log.unlink(missing_ok=True)


def engine_options(
    device: str, *, dtype: str, max_length: int, seed: int, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Options of the engine as we start it; `more`, which the user named, go before ours."""
    return {
        "dtype": str(pick_dtype(dtype, device=device)).removeprefix("torch."),
        "max_model_len": max_length,
        "seed": seed,
        "gpu_memory_utilization": MEMORY_SHARE,
        **(more or {}),
    }


def _environment(device: str) -> dict[str, str]:
    """The engine's environment: ours, but for what would break it, and by default in one reproducible process."""
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    environment.pop("TQDM_DISABLE", None)  # vLLM divides by the time that its progress bar took
    if environment.get("PYTORCH_ALLOC_CONF") == GROWING:  # vLLM has pools of its own, and hands memory to its processes
        del environment["PYTORCH_ALLOC_CONF"]
    visible = visible_devices(device, environment.get("CUDA_VISIBLE_DEVICES"))
    return environment if visible is None else {**environment, "CUDA_VISIBLE_DEVICES": visible}


def reason(error: str, log: str) -> str:
    """One line on why vLLM failed, from the error that came back and the log of its process.

    Where a worker failed the error says only that; the cause is the last one in the log. Of an option that vLLM
    refuses, the line after the first says what is wrong.
    """
    if "ngine core" in error or "EngineDead" in error or "process ended" in error or "WorkerProc" in error:
        causes = re.findall(r"\b(\w*(?:Error|Exception): .+)", log)
        named = [cause for cause in causes if "ngine core" not in cause and "WorkerProc" not in cause]
        error = named[-1] if named else error
    lines = [line.strip() for line in error.splitlines() if line.strip()] or [error]
    line = next((line for line in lines[1:] if line.startswith("Value error, ")), lines[0])
    line = re.sub(r"^Value error, ", "", line).split(" [type=")[0].rstrip(".")
    return line if len(line) <= 300 else line[:297] + "..."
