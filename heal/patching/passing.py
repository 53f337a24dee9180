"""Where a model takes no patch: the cut itself in the patch's place, so that what comes after finds a model there."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heal.lineage import carry
from prune.checkpoint.headers import read_checkpoint
from prune.checkpoint.source import locate
from prune.common.errors import RegrowthError
from prune.common.files.outputs import check_apart, staged_directory


class NoPatchError(RegrowthError):
    """No patch is made: the family or the cut takes none, or none is better than no patch."""


@dataclass(frozen=True)
class PassedOver:
    """A patch that was not made: why, and where the cut stands in its place."""

    out: str
    passed_over: str

    def words(self) -> str:
        """In one line."""
        return f"Patch passed over: {self.passed_over}. {self.out} is the cut as it was."

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def leave_as_cut(
    model: str | Path, out: str | Path, *, why: str, revision: str | None = None, overwrite: bool = False
) -> PassedOver:
    """Write the pruned model `model` to the folder `out` byte by byte; it appears whole or not at all."""
    source = locate(model, revision=revision)
    check_apart(out, source.folder)
    with staged_directory(out, overwrite=overwrite) as stage:
        for shard in read_checkpoint(source.folder).shards:
            shutil.copyfile(shard.path, stage / shard.name)
        carry(source.folder, stage)
        if (source.folder / "README.md").is_file():
            shutil.copyfile(source.folder / "README.md", stage / "README.md")
    return PassedOver(str(out), why)
