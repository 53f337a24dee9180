"""Which stages have to run: a stage is keyed by its command, its options and the identity of what it reads."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.identity import file_identity
from prune.common.errors import RegrowthError, UsageError
from prune.common.files.provenance import digest, versions
from recipes.record import StageRecord
from recipes.schema import Recipe, Stage
from recipes.tidying import needed_again, outputs_of, words_read

if TYPE_CHECKING:
    from rich.table import Table


UNFINISHED = "was not finished"


@dataclass(frozen=True)
class StagePlan:
    """One stage with its key, and why it runs (None where it is unchanged)."""

    stage: Stage
    key: str
    outputs: tuple[str, ...]
    why: str | None

    @property
    def line(self) -> str:
        """The shell command that does the same by hand."""
        return shlex.join([self.stage.command.split()[0], *self.stage.words()])


@dataclass(frozen=True)
class RecipePlan:
    """A resolved recipe and what will be done for each of its stages, in order."""

    recipe: Recipe
    stages: tuple[StagePlan, ...]

    def table(self) -> Table:
        """The plan for people."""
        from rich.table import Table

        table = Table(title=f"recipe {self.recipe.name}", title_justify="left")
        table.add_column("stage", style="bold")
        table.add_column("does")
        table.add_column("command", overflow="fold")
        for planned in self.stages:
            table.add_row(planned.stage.name, f"runs: {planned.why}" if planned.why else "unchanged", planned.line)
        return table

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "regrowth.recipe-plan/1",
            "recipe": self.recipe.name,
            "settings": self.recipe.settings,
            "stages": [{"name": s.stage.name, "command": s.line, "runs": s.why, "key": s.key} for s in self.stages],
        }


def plan_recipe(recipe: Recipe, records: dict[str, StageRecord], *, start: str | None = None) -> RecipePlan:
    """Decide for each stage of a resolved recipe whether it runs.

    Args:
        recipe: resolved (no `{name}` left).
        records: stage name -> what an earlier run left in recipe.json.
        start: this stage and all after it run in any case.

    Raises:
        UsageError: `start` is no stage.
        RegrowthError: an output exists that no run of this recipe made.
    """
    names = [stage.name for stage in recipe.stages]
    if start is not None and start not in names:
        raise UsageError(f"--from {start}: no such stage; {recipe.name} has {', '.join(names)}")
    made: dict[str, str] = {}  # output path -> key of the stage that makes it
    plans: list[StagePlan] = []
    forced = False
    for stage in recipe.stages:
        forced = forced or stage.name == start
        outputs = outputs_of(stage)
        key = _key(stage, made)
        record = records.get(stage.name)
        why = "asked by --from" if forced else _why(record, key, outputs)
        for output in outputs:
            if Path(output).exists() and record is None:
                raise RegrowthError(f"{output} exists and was not made by this recipe; remove it or change --set out=")
            made[output] = key
        plans.append(StagePlan(stage, key, outputs, why))
    gone = {name: [output for output in record.tidied if is_gone(record, output)] for name, record in records.items()}
    again = needed_again(recipe.stages, [planned.why is not None for planned in plans], gone)
    for number, planned in enumerate(plans):
        if planned.stage.name in again:
            name = Path(again[planned.stage.name]).name
            plans[number] = replace(planned, why=f"{name} was tidied away and is needed again")
    return RecipePlan(recipe, tuple(plans))


def _key(stage: Stage, made: dict[str, str]) -> str:
    read = {word: made.get(word) or _outside(word) for word in words_read(stage)}
    return digest([stage.command, stage.words(), read, versions().get("regrowth")])


def _outside(word: str) -> str | None:
    try:
        return identity(word)
    except OSError:  # no path, such as a text that is longer than a name may be
        return None


def identity(path: str | Path) -> str | None:
    """A digest of a file (see `prune.checkpoint.identity`) or a folder; None where nothing is there."""
    path = Path(path)
    if path.is_file():
        return file_identity(path)
    if not path.is_dir():
        return None
    content = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content.update(f"{file.relative_to(path)}\0{file_identity(file)}\0".encode())
    return content.hexdigest()


def is_gone(record: StageRecord, output: str) -> bool:
    """Whether an output was tidied away: it is not there, or not whole, where its deletion was stopped."""
    return output in record.tidied and identity(output) != record.outputs.get(output)


def _why(record: StageRecord | None, key: str, outputs: tuple[str, ...]) -> str | None:
    if record is None:
        return "never run"
    if record.state != "done":
        return UNFINISHED
    if record.key != key:
        return "inputs changed"
    for output in outputs:
        now = identity(output)
        if now != record.outputs.get(output) and output in record.tidied:
            continue
        if now is None:
            return f"{Path(output).name} is gone"
        if now != record.outputs.get(output):
            return f"{Path(output).name} was changed"
    return None
