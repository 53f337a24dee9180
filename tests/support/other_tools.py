"""Environments of other tools for tests/world: a tool that pip cannot bring is a skip with pip's reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.shared.environments import Environment, NotInstallableError, environment

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "world" / "scripts"
NEWEST, OLDEST = ROOT / "constraints.txt", ROOT / "constraints-floor.txt"
_LIMIT = 1800  # seconds of one script


@contextmanager
def installed(name: str, *requirements: str, constraints: Path | None = None, **options: Any) -> Iterator[Environment]:
    """As `environment`.

    Args:
        constraints: a file of ours whose versions hold, NEWEST or OLDEST.
    """
    how = ["--no-compile"]  # most of what is installed is never imported
    how += ["--constraint", str(constraints)] if constraints else []
    try:
        with environment(f"world-{name}", [*how, *requirements], **options) as made:
            yield made
    except NotInstallableError as error:
        pytest.skip(f"pip: {error}")


def answer(tool: Environment, script: str, *words: object, folder: Path) -> Any:
    """Run tests/world/scripts/SCRIPT in the tool's environment, from `folder`; return the JSON that it writes last.

    The script is given `words` and then the path that it writes to.
    """
    out = folder / f"{Path(script).stem}.json"
    done = tool.run(SCRIPTS / script, *words, out, cwd=folder, timeout=_LIMIT)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())
