"""docs/works-with.md: what was checked with which version of other tools, and how it went."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HEAD = """# Works with

Other tools take what Regrowth writes. Each line below is a check that ran: `make check-world` makes the models by the
command lines, installs each tool into an environment of its own, and writes this page.

The models are the sample model (SmolLM2-135M-Instruct) without 6 of its 30 layers, that cut patched, an adapter trained
for a few steps, and the merged model. They were written with {ours},
on Python {python}.

| tool | what was checked | result |
|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One check. tool: name and version. found: a figure, if there is one. outcome: passed, failed or skipped."""

    tool: str
    what: str
    found: str
    outcome: str
    reason: str = ""

    @property
    def cells(self) -> tuple[str, str, str]:
        return self.tool, self.what, "; ".join(filter(None, [self.outcome, self.found, self.reason]))

    def line(self) -> str:
        return "| " + " | ".join(_cell(one) for one in self.cells) + " |\n"


def write_table(page: Path, rows: Sequence[Row]) -> None:
    ours = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "safetensors"))
    head = HEAD.format(ours=ours, python=platform.python_version())
    page.write_text(head + "".join(row.line() for row in sorted(rows, key=lambda row: row.tool.lower())))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
