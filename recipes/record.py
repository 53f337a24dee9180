"""recipe.json: what the stages of a recipe did, by which the next run knows what is unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from prune.common.files.artefact import Artefact, Part


class StageRecord(Part):
    """What one stage did."""

    state: Literal["started", "done"] = Field(description="`done`, or `started` if it was stopped or failed")
    key: str = Field(description="of its command, its options and the identity of what it reads")
    command: str = Field(description="the shell command that does the same by hand")
    seconds: float | None = Field(default=None, description="that it took; null until it is done")
    peak_memory_bytes: int | None = Field(default=None, description="of its process; null until it is done")
    outputs: dict[str, str | None] = Field(
        default={},
        description="each output -> its identity. Files above 64 MiB count by size and time of change (and a "
        "safetensors file by its header), not by content",
    )
    tidied: tuple[str, ...] = Field(
        default=(), description="outputs that `--tidy` has deleted since, because no later stage read them"
    )
    verdict: str | None = Field(default=None, description="`NO-GO` or `INCONCLUSIVE` if it ended with exit code 3 or 4")


class RecipeRecord(Artefact):
    """The last run of a recipe in its folder."""

    AGAIN: ClassVar[str] = "remove its folder, or change --set out="

    format: Literal["regrowth.recipe/2"] = Field(
        default="regrowth.recipe/2", description="the file's format and version"
    )
    recipe: str = Field(description="its name")
    settings: dict[str, Any] = Field(description="of the last run")
    provenance: dict[str, Any] = Field(description="of the last run")
    stages: dict[str, StageRecord] = Field(description="by their names")

    def with_stage(self, name: str, stage: StageRecord) -> RecipeRecord:
        """The same record with what a stage did."""
        return self.model_copy(update={"stages": {**self.stages, name: stage}})


def read_stages(path: Path) -> dict[str, StageRecord]:
    """The stages that a recipe.json has; none if there is no such file."""
    return RecipeRecord.read(path).stages if path.exists() else {}
