"""Run a recipe's stages in order, each in a process of its own, and keep what they cost in `OUT/recipe.json`.

A stage is the very command a user would type: its memory is freed when it ends and its peak is exact, and a
crash of one cannot take the others with it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError
from prune.common.outputs import write_json
from prune.common.provenance import provenance, read_artefact
from prune.common.terminal import EXIT_INCONCLUSIVE, EXIT_NO_GO, screen
from recipes.identity import identity
from recipes.planning import UNFINISHED, RecipePlan, StagePlan, plan_recipe
from recipes.schema import Recipe, RecipeError

FORMAT = "regrowth.recipe/1"
_VERDICTS = {EXIT_NO_GO: "NO-GO", EXIT_INCONCLUSIVE: "INCONCLUSIVE"}
_TRAININGS = ("heal qlora", "heal distill")  # what they did is kept when they are stopped
_MODULES = {"prune": "prune", "heal": "heal", "evaluate": "eval"}


@dataclass(frozen=True)
class RecipeRun:
    """What a run did: its plan, and for each stage its state, seconds and peak memory."""

    plan: RecipePlan
    record: dict[str, Any]

    @property
    def just_made(self) -> set[str]:
        """Names of the stages that this run did run."""
        return {one.stage.name for one in self.plan.stages if one.why}

    @property
    def exit_code(self) -> int:
        """That of the stages' verdicts, now or in the run that made their results: NO-GO before INCONCLUSIVE."""
        verdicts = {self.record["stages"][one.stage.name].get("verdict") for one in self.plan.stages}
        return min((code for code, verdict in _VERDICTS.items() if verdict in verdicts), default=0)


def plan_run(recipe: Recipe, *, start: str | None = None) -> RecipePlan:
    """Plan a resolved recipe against what its folder holds; nothing is written."""
    return plan_recipe(recipe, _read_record(_record_path(recipe))["stages"], start=start)


def run_recipe(recipe: Recipe, *, start: str | None = None, quiet: bool = False) -> RecipeRun:
    """Run the stages of a resolved recipe whose inputs changed.

    Args:
        recipe: from `load_recipe(name).resolve(changes)`.
        start: run this stage and all after it in any case.
        quiet: swallow what the stages print on stdout (their progress on stderr stays).

    Raises:
        RegrowthError: a stage failed; the earlier ones stay done, and the next run goes on from there.
    """
    path = _record_path(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        plan = plan_run(recipe, start=start)
        record = _read_record(path)
        record |= {"recipe": recipe.name, "settings": recipe.settings, "provenance": provenance()}
        say = screen()
        todo = [one for one in plan.stages if one.why]
        for one in plan.stages:
            if not one.why:
                say.print(f"{one.stage.name}: unchanged", style="dim")
                continue
            say.print(f"{one.stage.name} ({todo.index(one) + 1}/{len(todo)}, {one.why})", style="bold")
            say.print(f"  {one.line}")
            before = record["stages"].get(one.stage.name, {})
            record["stages"][one.stage.name] = {"state": "started", "key": one.key, "command": one.line}
            write_json(path, record, overwrite=True)
            record["stages"][one.stage.name] = _run_stage(one, _unfinished(one, before), quiet=quiet)
            write_json(path, record, overwrite=True)
    return RecipeRun(plan, record)


def _unfinished(one: StagePlan, before: Mapping[str, Any]) -> list[str]:
    """What to do with the training that a stopped run of this stage left.

    It goes on where its inputs are the same. It begins anew where they changed, or where --from asks for it.
    """
    if one.stage.command not in _TRAININGS or before.get("state") != "started":
        return []
    return ["--resume"] if before.get("key") == one.key and one.why == UNFINISHED else ["--overwrite"]


def _run_stage(one: StagePlan, more: list[str], *, quiet: bool) -> dict[str, Any]:
    program, *_ = one.stage.command.split()
    words = [sys.executable, "-m", _MODULES[program], *one.stage.words(), *more]
    if "--overwrite" not in more and any(Path(output).exists() for output in one.outputs):
        words.append("--overwrite")
    started = time.monotonic()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL if quiet else None)
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        raise
    child.returncode = code = os.waitstatus_to_exitcode(status)
    if code and code not in _VERDICTS:  # a verdict is a result like others
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        raise RegrowthError(f"stage {one.stage.name} failed ({how}); its command was: {one.line}")
    return {
        "state": "done",
        "key": one.key,
        "command": one.line,
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "outputs": {output: identity(output) for output in one.outputs},
        **({"verdict": _VERDICTS[code]} if code else {}),
    }


def _record_path(recipe: Recipe) -> Path:
    return Path(str(recipe.settings["out"])) / "recipe.json"


def _read_record(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"format": FORMAT, "stages": {}}
    record = read_artefact(path, FORMAT)
    if not isinstance(record.get("stages"), dict):
        raise RecipeError(f"{path} has no stages; remove it to start afresh")
    return record


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RegrowthError(f"another recipe runs in {folder}; wait for it or change --set out=") from None
        yield
    finally:
        os.close(handle)
