"""Which cuts of a model `evaluate sweep` asks, and which questions: its settings, each with its option."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from eval.settings import SHORTEST, Questions
from prune.common.errors import UsageError
from prune.common.screen.options import Option

_cuts = partial(Option, panel="Cuts")


def _paths(paths: Iterable[str | Path]) -> tuple[Path, ...]:
    return tuple(map(Path, paths))


@dataclass(frozen=True)
class SweepSettings(Questions):
    """Which cuts of a model `evaluate sweep` asks, and which questions."""

    scan: Annotated[Path | None, _cuts("scan.json of this model, for --starts best.", parse=Path)] = None
    sizes: Annotated[str, _cuts("How many layers to drop, as 0-15 or 4,8,12.")] = "0-15"
    starts: Annotated[
        str | None,
        _cuts("best (of the scan), deepest, all, or start layers as 3,7,10-12; best if --scan is given, else deepest."),
    ] = None
    adapters: Annotated[
        tuple[Path, ...],
        _cuts(
            "Healing adapter that sits only after its cut: adds a healed variant; repeatable.",
            flag="--adapter",
            typed=list[Path] | None,
            parse=_paths,
        ),
    ] = ()
    batch_tokens: Annotated[
        int | None, Option("Tokens of one batch; halved where memory runs out.", shown="1024; on CUDA 8192")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_asks()
        if self.batch_tokens is not None and self.batch_tokens < SHORTEST:
            raise UsageError(f"--batch-tokens {self.batch_tokens} is too few; use {SHORTEST} or more")
