"""Run a recipe's stages in order, each in a process of its own, and keep what they cost in `OUT/recipe.json`.

A stage is the very command a user would type: its memory is freed when it ends and its peak is exact, and a
crash of one cannot take the others with it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.billing.judging.policy import policy_of
from prune.common.errors import RegrowthError
from prune.common.files.provenance import provenance
from prune.common.machine.stopping import Interrupted
from prune.common.programs import PROGRAMS
from prune.common.screen.terminal import EXIT_INCONCLUSIVE, EXIT_NO_GO, screen
from recipes.budget import check_budget
from recipes.budget_request import StageRefusedError
from recipes.child import run_child
from recipes.commands import options_of
from recipes.planning import UNFINISHED, RecipePlan, StagePlan, identity, plan_recipe
from recipes.record import RecipeRecord, StageRecord, read_stages
from recipes.schema import Recipe, Stage
from recipes.tidying import done_with, take_away

_VERDICTS = {EXIT_NO_GO: "NO-GO", EXIT_INCONCLUSIVE: "INCONCLUSIVE"}


@dataclass(frozen=True)
class RecipeRun:
    """What a run did: its plan, and for each stage its state, seconds and peak memory."""

    plan: RecipePlan
    record: RecipeRecord

    def to_json(self) -> dict[str, Any]:
        return self.record.to_json()

    @property
    def just_made(self) -> set[str]:
        """Names of the stages that this run did run."""
        return {planned.stage.name for planned in self.plan.stages if planned.why}

    @property
    def exit_code(self) -> int:
        """That of the stages' verdicts, now or in the run that made their results: NO-GO before INCONCLUSIVE."""
        verdicts = {self.record.stages[planned.stage.name].verdict for planned in self.plan.stages}
        return min((code for code, verdict in _VERDICTS.items() if verdict in verdicts), default=0)


def plan_run(recipe: Recipe, *, start: str | None = None) -> RecipePlan:
    """Plan a resolved recipe against what its folder holds; nothing is written.

    Raises:
        StageRefusedError: a policy that cannot be read; the stage that reads it is the last.
        UsageError, RegrowthError: see `recipes.planning.plan_recipe`.
    """
    for stage in recipe.stages:
        try:
            _check_policy(stage)
        except RegrowthError as error:
            raise StageRefusedError(stage, error) from None
    return plan_recipe(recipe, read_stages(_record_path(recipe)), start=start)


def run_recipe(
    recipe: Recipe, *, start: str | None = None, quiet: bool = False, tidy: bool = False, budget: bool = True
) -> RecipeRun:
    """Run the stages of a resolved recipe whose inputs changed.

    Args:
        recipe: from `load_recipe(name).resolve(changes)`.
        start: run this stage and all after it in any case.
        quiet: swallow what the stages print on stdout (their progress on stderr stays).
        tidy: delete intermediates as soon as no later stage reads them; see `recipes.tidying`.
        budget: print beforehand what the stages will take, and refuse what cannot fit.

    Raises:
        RegrowthError: a stage cannot fit in memory or on the disk, by the budget; or one failed. The earlier ones stay
            done, and the next run goes on from there.
        Interrupted: Ctrl-C or SIGTERM. The stage is told once, and a second time by a second one; it is waited for.
    """
    path = _record_path(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        plan = plan_run(recipe, start=start)
        record = RecipeRecord(
            recipe=recipe.name, settings=recipe.settings, provenance=provenance(), stages=read_stages(path)
        )
        say = screen()
        todo = [planned for planned in plan.stages if planned.why]
        if budget and todo:
            check_budget(plan, tidy=tidy)
        for number, planned in enumerate(plan.stages):
            name = planned.stage.name
            if not planned.why:
                say.print(f"{name}: unchanged", style="dim")
                record = _tidy(record, recipe, number, path) if tidy else record
                continue
            say.print(f"{name} ({todo.index(planned) + 1}/{len(todo)}, {planned.why})", style="bold")
            say.print(f"  {planned.line}")
            more = _unfinished(planned, record.stages.get(name))
            record = record.with_stage(name, StageRecord(state="started", key=planned.key, command=planned.line))
            record.write(path, overwrite=True)
            done, stopped_by = _run_stage(planned, more, quiet=quiet)
            record = record.with_stage(name, done)
            record.write(path, overwrite=True)
            if stopped_by:
                raise _stopped(stopped_by, f"after stage {name}")
            record = _tidy(record, recipe, number, path) if tidy else record
    return RecipeRun(plan, record)


def _check_policy(stage: Stage) -> None:
    max_loss, policy = (stage.options.get(name) for name in ("max-loss", "policy"))
    policy_of(None if max_loss is None else str(max_loss), None if policy is None else str(policy))


def _tidy(record: RecipeRecord, recipe: Recipe, done: int, path: Path) -> RecipeRecord:
    """Delete the intermediates that no stage after number `done` reads; what has changed since it was made stays.

    It is noted before it is done: what was begun to be deleted is no result.
    """
    for stage, output in done_with(recipe, done):
        made = record.stages.get(stage.name)
        if made is None or made.state != "done" or not Path(output).exists():
            continue
        if output not in made.tidied:
            if identity(output) != made.outputs.get(output):
                continue
            screen().print(f"  tidied away: {output}", style="dim")
            record = record.with_stage(stage.name, made.model_copy(update={"tidied": (*made.tidied, output)}))
            record.write(path, overwrite=True)
        take_away(output)
    return record


def _unfinished(planned: StagePlan, before: StageRecord | None) -> list[str]:
    """What to do with the work that a stopped run of this stage left.

    It goes on where its inputs are the same. It begins anew where they changed, or where --from asks for it.
    """
    keeps_work = "resume" in options_of(planned.stage.command)
    if not keeps_work or before is None or before.state != "started":
        return []
    return ["--resume"] if before.key == planned.key and planned.why == UNFINISHED else ["--overwrite"]


def _run_stage(planned: StagePlan, more: list[str], *, quiet: bool) -> tuple[StageRecord, int]:
    """What the stage did, and the number of the signal that came while it ran to its end, or 0."""
    program, *_ = planned.stage.command.split()
    words = [sys.executable, "-m", PROGRAMS[program], *planned.stage.words(), *more]
    if "--overwrite" not in more and any(Path(output).exists() for output in planned.outputs):
        words.append("--overwrite")
    started = time.monotonic()
    child = run_child(words, quiet=quiet)
    code, name = child.code, planned.stage.name
    failed = code and code not in _VERDICTS  # a verdict is a result like others
    if failed and child.stopped_by:
        raise _stopped(child.stopped_by, f"in stage {name}")
    if failed:
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        raise RegrowthError(f"stage {name} failed ({how}); its command was: {planned.line}")
    record = StageRecord(
        state="done",
        key=planned.key,
        command=planned.line,
        seconds=round(time.monotonic() - started, 1),
        peak_memory_bytes=child.peak_memory_bytes,
        outputs={output: identity(output) for output in planned.outputs},
        verdict=_VERDICTS.get(code),
    )
    return record, child.stopped_by


def _stopped(number: int, where: str) -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(number).name} {where}; the same command goes on there", number)


def _record_path(recipe: Recipe) -> Path:
    return Path(str(recipe.settings["out"])) / "recipe.json"


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
