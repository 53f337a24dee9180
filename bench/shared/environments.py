"""A virtual environment for another tool: from PyPI, with this one's torch linked into it, and removed after use.

torch is most of what such an environment would weigh. Its folders are linked, and with it what it needs, so that pip
finds them installed and fetches no other build. What a tool pins otherwise (an older transformers, say) stands before
the links and wins.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / "build" / "environments"
_WAIT = 1200  # seconds that pip may take


class NotInstallableError(Exception):
    """pip could not make the environment. The message is what it said of the reason."""


@dataclass(frozen=True)
class Environment:
    """place: its folder. python: its interpreter."""

    place: Path

    @property
    def python(self) -> Path:
        return self.place / "bin" / "python"

    def command(self, name: str) -> Path:
        """A command line that a package brought."""
        return self.place / "bin" / name

    def run(self, *words: object, **options) -> subprocess.CompletedProcess[str]:
        """`python WORDS` in it, its output caught; it does not see this project's folder."""
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        options = {"capture_output": True, "text": True, "check": False, "env": variables} | options
        return subprocess.run([str(self.python), *map(str, words)], **options)

    def version(self, name: str) -> str:
        """Of a distribution in it, as `mergekit 0.1.5`."""
        code = f"from importlib.metadata import version; print(version({name!r}))"
        return f"{name} {self.run('-c', code, check=True).stdout.strip()}"


@contextmanager
def environment(
    name: str,
    requirements: Sequence[str],
    *,
    bare: Sequence[str] = (),
    linked: Sequence[str] = ("torch",),
    python: str | Path = sys.executable,
    keep: bool | None = None,
) -> Iterator[Environment]:
    """Make it, lend it, remove it.

    Args:
        name: of its folder under build/environments.
        requirements: what pip installs with all that it needs.
        bare: what pip installs after that with `--no-deps`.
        linked: distributions of this environment that it shares, each with what it needs in turn.
        python: the interpreter it is made of. Another version than this one's shares nothing: give `linked=()`.
        keep: leave it for the next call, which takes it as it is. None: where REGROWTH_KEEP_ENVIRONMENTS is set.

    Raises:
        NotInstallableError: pip failed.
    """
    keep = bool(os.environ.get("REGROWTH_KEEP_ENVIRONMENTS")) if keep is None else keep
    made = Environment(PLACE / name)
    whole = made.place / ".whole"
    try:
        if not whole.exists():
            shutil.rmtree(made.place, ignore_errors=True)
            _make(made, python, linked)
            _install(made, [*requirements, *_pins(linked)] if requirements else [])
            _install(made, ["--no-deps", *bare] if bare else [])
            whole.touch()
        yield made
    finally:
        if not keep or not whole.exists():
            shutil.rmtree(made.place, ignore_errors=True)


def _make(made: Environment, python: str | Path, linked: Sequence[str]) -> None:
    made.place.parent.mkdir(parents=True, exist_ok=True)
    if Path(python) == Path(sys.executable):
        venv.create(made.place, with_pip=True)
    else:
        subprocess.run([str(python), "-m", "venv", str(made.place)], check=True)
    if not linked:
        return
    links = made.place / "shared"
    links.mkdir()
    for one in _closure(linked):
        for top in _tops(one):
            target = links / top.name
            if not target.exists():
                target.symlink_to(top)
    (packages,) = made.place.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(f"{links}\n")


def distribution(name: str) -> Distribution:
    """As site-packages has it: a source tree that was built from may hold metadata of its own."""
    found = next(iter(Distribution.discover(name=name, path=[sysconfig.get_paths()["purelib"]])), None)
    if found is None:
        raise PackageNotFoundError(name)
    return found


def _closure(names: Sequence[str]) -> list[str]:
    """The distributions, and all that they need and that is installed here."""
    found: list[str] = []
    left = list(names)
    while left:
        name = left.pop()
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # an option of another platform
            continue
        if name not in found:
            found.append(name)
            left += [re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in needs if "extra ==" not in one]
    return found


def _tops(name: str) -> Iterator[Path]:
    """The folders and files in site-packages that a distribution consists of."""
    here = Path(sysconfig.get_paths()["purelib"])
    firsts = {Path(file).parts[0] for file in distribution(name).files or []}
    for first in sorted(firsts - {"..", "__pycache__", "bin"}):
        if (here / first).exists():
            yield here / first


def _pins(linked: Sequence[str]) -> list[str]:
    """So that pip neither replaces what is linked nor looks for a newer one."""
    return [f"{name}=={distribution(name).version}" for name in linked]


def _install(made: Environment, what: Sequence[str]) -> None:
    if not what:
        return
    done = made.run("-m", "pip", "install", "--quiet", *what, timeout=_WAIT)
    if done.returncode:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise NotInstallableError("; ".join(lines) or f"pip left with exit code {done.returncode}")
