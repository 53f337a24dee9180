"""A model on vLLM, in a process of its own: the engine's memory comes back when it ends, and so the next can start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from eval.asking.vllm_child import STOP
from eval.settings import Settings
from prune.checkpoint.source import Source
from prune.common.errors import CheckpointError, RegrowthError
from prune.common.terminal import Progress
from prune.models.precision import pick_dtype
from prune.models.vllm_options import MEMORY_SHARE, engine_device, visible_devices, vllm_version

PIECE = 512  # requests handed over at a time, whose answers are kept before the next go; vLLM makes its own batches
_PATIENCE = 30  # seconds for the engine to end by itself
_CHILD = "import sys; sys.path = {path!r}; from eval.asking.vllm_child import main; main({descriptor})"


class VllmModel:
    """A model behind vLLM that answers as `eval.asking.harness.Scorer` does.

    Args:
        source: the model.
        settings: precision, seed, device and the engine's options.
        max_length: tokens of context.
        bar: advanced by one for each answer.

    Raises:
        CheckpointError: vLLM cannot load the model.
    """

    def __init__(self, source: Source, settings: Settings, *, max_length: int, bar: Progress) -> None:
        device = engine_device(settings.device)
        options = {
            "pretrained": str(source.folder),
            "dtype": str(pick_dtype(settings.dtype, device=device)).removeprefix("torch."),
            "max_model_len": max_length,
            "seed": settings.seed,
            "gpu_memory_utilization": MEMORY_SHARE,
            **dict(settings.backend_args),
        }
        self.bar = bar
        self.tokens = 0
        self.notes: list[str] = []
        self._hook: Any = None
        self._waiting = self._closed = False
        self._start(_environment(device))
        try:
            self.facts: dict[str, Any] = self._exchange(options)
        except RegrowthError as error:
            raise CheckpointError(f"{source.name} cannot be loaded by vLLM {vllm_version()} ({error})") from error

    def set_cache_hook(self, hook: Any) -> None:
        """Where each answer goes as soon as it is there."""
        self._hook = hook

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._ask("loglikelihood", [request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._ask("loglikelihood_rolling", [request.args for request in requests])

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """As lm-eval's."""
        return self._ask("generate_until", [request.args for request in requests])

    def window_nats(self, windows: Sequence[list[int]]) -> list[float]:
        """Summed NLL in nats of each window's tokens after the first, each given those before it."""
        return self._ask("window", list(windows))

    def close(self) -> None:
        """End the process: in order where it is idle, at once where it is at work."""
        if self._closed:
            return
        self._closed = True
        if not self._waiting:
            with suppress(OSError):
                self._pipe.send(STOP)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        with suppress(ProcessLookupError):  # workers too: the group has the number of its first process
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe.close()
        self._log.unlink(missing_ok=True)

    def _start(self, environment: dict[str, str]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="regrowth-vllm-", suffix=".log")
        self._log = Path(name)
        self._pipe, theirs = Pipe()
        code = _CHILD.format(path=sys.path, descriptor=theirs.fileno())
        with open(descriptor, "wb") as log, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is ours to hand on
            )

    def _ask(self, kind: str, requests: list[Any]) -> list[Any]:
        collected: list[Any] = []
        for start in range(0, len(requests), PIECE):
            piece = requests[start : start + PIECE]
            answers, tokens = self._exchange((kind, piece))
            self.tokens += tokens
            for arguments, answer in zip(piece, answers, strict=True):
                self._hook.add_partial(kind, arguments, answer)
            self.bar.advance(len(piece))
            collected += answers
        return collected

    def _exchange(self, message: Any) -> Any:
        self._waiting = True
        try:
            self._pipe.send(message)
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            kind, content = "error", "its process ended without a word"
        except BaseException:
            self.close()
            raise
        self._waiting = False
        if kind == "error":
            why = reason(content, self._log.read_text(errors="replace"))
            kept = self._log.rename(self._log.with_suffix(".failed.log"))
            self._waiting = True  # whatever state it is in, it is not worth waiting for
            self.close()
            raise RegrowthError(f"vLLM failed: {why}; its log is {kept}")
        return content


def _environment(device: str) -> dict[str, str]:
    """The engine's environment: ours, but for what would break it, and by default in one reproducible process."""
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        **os.environ,
    }
    environment.pop("TQDM_DISABLE", None)  # vLLM divides by the time that its progress bar took
    visible = visible_devices(device, environment.get("CUDA_VISIBLE_DEVICES"))
    return environment if visible is None else {**environment, "CUDA_VISIBLE_DEVICES": visible}


def reason(error: str, log: str) -> str:
    """One line on why vLLM failed, from the error that came back and the log of its process.

    Where a worker failed the error says only that; the cause is the last one in the log. Of an option that vLLM
    refuses, the line after the first says what is wrong.
    """
    if "ngine core" in error or "EngineDead" in error or "process ended" in error or "WorkerProc" in error:
        causes = re.findall(r"\b(\w*(?:Error|Exception): .+)", log)
        ours = [cause for cause in causes if "ngine core" not in cause and "WorkerProc" not in cause]
        error = ours[-1] if ours else error
    lines = [line.strip() for line in error.splitlines() if line.strip()] or [error]
    line = next((later for later in lines[1:] if later.startswith("Value error, ")), lines[0])
    line = re.sub(r"^Value error, ", "", line).split(" [type=")[0].rstrip(".")
    return line if len(line) <= 300 else line[:297] + "..."
