"""llama.cpp from PyPI: its own converter to GGUF, and its server, asked for whole distributions over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bench.shared.environments import Environment

SOURCE = "llama-cpp-python==0.3.36"  # its source distribution holds llama.cpp, with the converter
SERVER = "xllamacpp==2026.10.11549"  # llama.cpp's server, compiled for any x86-64 or ARM CPU
CONVERTER = "convert_hf_to_gguf.py"
_PARTS = (CONVERTER, "conversion", "gguf-py")
_SERVE = Path(__file__).resolve().parents[1] / "world" / "scripts" / "llama_server.py"
_WAIT = 300  # seconds that pip, the converter or an answer may take


def unpack_converter(tool: Environment, folder: Path) -> Path:
    """Fetch the source distribution and unpack the converter into `folder`; skip the test where pip cannot."""
    words = ("download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder, SOURCE)
    done = tool.run("-m", "pip", *words, timeout=_WAIT)
    if done.returncode:
        pytest.skip(f"pip: {(done.stderr.splitlines() or ['no word'])[-1]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        for member in packed:
            _, _, inner = member.name.partition("/vendor/llama.cpp/")
            if inner.split("/")[0] in _PARTS:
                packed.extract(member.replace(name=inner), folder, filter="data")
    archive.unlink()
    return folder


def convert(tool: Environment, converter: Path, model: Path, out: Path, outtype: str) -> Path:
    """`out`, the model as GGUF with its weights in `outtype`."""
    words = (converter / CONVERTER, model, "--outfile", out, "--outtype", outtype)
    done = tool.run(*words, timeout=_WAIT)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


class Served:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **what: object) -> dict:
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(what).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_WAIT) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        return self.ask("/tokenize", content=text)["tokens"]

    def distribution(self, ids: Sequence[int], vocabulary: int) -> torch.Tensor:
        """[vocabulary]: the log-probability of each token after these.

        The server adds up its probabilities in single precision, and their sum is 1 to four digits. Here it is 1.
        """
        answer = self.ask("/completion", prompt=list(ids), n_predict=1, n_probs=vocabulary, temperature=0)
        (position,) = answer["completion_probabilities"]
        known = torch.full((vocabulary,), -torch.inf, dtype=torch.float64)
        known[[one["id"] for one in position["top_logprobs"]]] = torch.tensor(
            [one["logprob"] for one in position["top_logprobs"]], dtype=torch.float64
        )
        assert abs(known.exp().sum() - 1) < 1e-3
        return known.log_softmax(-1)


@contextmanager
def served(tool: Environment, model: Path) -> Iterator[Served]:
    """llama.cpp's server with the model, on one thread; it is gone afterwards."""
    command = [str(tool.python), str(_SERVE), str(model)]
    log = model.with_suffix(".log")
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        late = threading.Timer(_WAIT, process.kill)
        late.start()
        try:
            address = next((line.split()[1] for line in process.stdout if line.startswith("serves ")), None)
            late.cancel()
            assert address, log.read_text()[-4000:]
            yield Served(address)
        finally:
            late.cancel()
            process.kill()


def removed(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
