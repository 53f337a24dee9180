"""What the stages of a recipe will take: told before they run, and refused where it cannot fit.

The numbers are those of `heal budget` for the settings that the stages have. Stages that it knows nothing of, such as
`evaluate prepare`, are passed over.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heal.budget.document import Budget, Gpu, Station, StationWay
from heal.budget.plan import plan_budget
from heal.budget.stations import room_of
from heal.budget.table import gib, hours_words, way_words
from heal.settings import BudgetQuery
from prune.common.errors import RegrowthError, first_line
from prune.common.memory import available
from prune.common.sizes import spell_size
from prune.common.tables import Table
from prune.common.terminal import screen
from recipes.asked import amounts_of, asked_budget
from recipes.planning import RecipePlan
from recipes.schema import Stage, options_of
from recipes.tidying import done_with

_STATIONS = {
    "prune scan": "scan", "prune cut": "cut", "heal patch": "patch", "heal qlora": "heal", "heal distill": "heal",
    "heal finalists": "heal",
    "heal merge": "merge", "evaluate run": "run", "evaluate compare": "compare", "evaluate sweep": "sweep",
}  # fmt: skip
_STATES_SHARE = 0.25  # of free memory, as prune.scanning has it: more states go to a temporary file
_GO_ON = "or go on as it is with --no-budget"


@dataclass(frozen=True)
class StageBudget:
    """What one stage will take on the card that is here.

    Attributes:
        model: that it is about, and `stored` the bytes of its files.
        refused: why no setting fits.
    """

    stage: Stage
    model: str
    stored: int
    runs: bool
    card: Gpu
    station: Station
    way: StationWay
    refused: str | None

    def to_json(self) -> dict[str, Any]:
        """`stage`, `card`, and the fields of `heal budget --json` for its station."""
        told = self.way.model_dump(mode="json") | {"disk": self.station.disk, "work": self.station.work}
        return {"stage": self.stage.name, "runs": self.runs, "card": self.card.name, **told}


def budget_of(plan: RecipePlan) -> tuple[StageBudget, ...]:
    """What the stages will take, those that do not run too; empty where no stage is known.

    Raises:
        RegrowthError: the model cannot be read, or a stage's settings do not fit it.
    """
    recipe, found = plan.recipe, []
    budgets: dict[Any, Budget] = {}
    for planned in plan.stages:
        if (name := _STATIONS.get(planned.stage.command)) is None or (
            asked := asked_budget(recipe, planned.stage)
        ) is None:
            continue
        model, query, settings = asked
        if asked not in budgets:
            budgets[asked] = plan_budget(model, query, settings, amounts=amounts_of(recipe))
        budget = budgets[asked]
        numbers = {station.name: number for number, station in enumerate(budget.stations)}
        if (number := numbers.get(name)) is None:
            continue
        verdict = budget.gpus[0]
        station, way = budget.stations[number], verdict.stations[number]
        refused = next(
            (line for line in budget.refused if way.way == "none" and line.startswith(_told(query, way))), None
        )
        about = (planned.stage, asked[0], budget.stored, planned.why is not None)
        found.append(StageBudget(*about, verdict.gpu, station, way, refused))
    return tuple(found)


def told_budget(plan: RecipePlan) -> list[dict[str, Any]]:
    """The budget of a plan for `--dry-run`: as documents; empty where it cannot be told."""
    try:
        return [one.to_json() for one in budget_of(plan)]
    except (RegrowthError, ValueError):
        return []


def check_budget(plan: RecipePlan, *, tidy: bool) -> None:
    """Print what the stages that run will take, and refuse what cannot fit. Where it cannot be told, say so.

    Args:
        tidy: intermediates go as soon as no later stage reads them.

    Raises:
        RegrowthError: a stage cannot fit in memory, or what the stages write not on the disk.
    """
    try:
        budget = budget_of(plan)
    except (RegrowthError, ValueError) as error:
        screen().print(f"What the stages will take cannot be told: {first_line(error)}", style="dim")
        return
    running = [one for one in budget if one.runs]
    if not running:
        return
    folder = existing(Path(str(plan.recipe.settings["out"])))
    free, most = shutil.disk_usage(folder).free, most_on_disk(plan, budget, tidy=tidy)
    cache, missing = cache_folder(), sum(missing_bytes(*one) for one in {(one.model, one.stored) for one in running})
    screen().print(budget_table(running, most, free))
    if missing:
        screen().print(f"{spell_size(missing)} of the model come from the hub, into {cache}", style="dim")
    refuse(running, most + (missing if cache.stat().st_dev == folder.stat().st_dev else 0), free, tidy=tidy)
    there = shutil.disk_usage(cache).free
    if missing > there:
        raise RegrowthError(
            f"{spell_size(missing)} of the model are yet to come from the hub, and {spell_size(there)} are free in "
            f"{cache}: make room there, name a larger place in HF_HOME, {_GO_ON}"
        )


def cache_folder() -> Path:
    """Where hub models are kept, or the nearest folder above it that is there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return existing(Path(HF_HUB_CACHE))


def missing_bytes(model: str, stored: int) -> int:
    """Bytes of a hub model's files that are not in the cache yet, of `stored` in all; 0 for a folder.

    A download that was interrupted goes on where it stopped, so what it has brought counts.
    """
    if Path(model).exists():
        return 0
    from huggingface_hub.constants import HF_HUB_CACHE

    blobs = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "blobs"
    return max(0, stored - sum(blob.stat().st_size for blob in blobs.glob("*") if blob.is_file()))


def budget_table(budget: Sequence[StageBudget], most: int, free: int) -> Table:
    """The stages that run, each with its way on the card."""
    cards = {one.card.name: one.card for one in budget}
    where = " and ".join(f"{card.name}, {card.memory / 2**30:.0f} GiB" for card in cards.values())
    return Table.of(
        f"What the stages will take ({where}): expected, not measured",
        ("stage", "goes", "GiB", "disk GiB", "hours", "hours assume"),
        [
            (one.stage.name, way_words(one.way), gib(one.way.memory), gib(one.station.disk), hours_words(one.way),
             one.station.work)
            for one in budget
        ],
        words=("stage", "goes", "hours assume"),
        caption=f"At most {spell_size(most)} on the disk at once, where {spell_size(free)} are free.",
    )  # fmt: skip


def refuse(budget: Sequence[StageBudget], most: int, free: int, *, tidy: bool) -> None:
    """Refuse what cannot fit.

    Raises:
        RegrowthError: it names the stage, what to change, and the way to go on anyway.
    """
    for one in budget:
        if one.refused is not None:
            raise RegrowthError(f"stage {one.stage.name}: {one.refused}; {_GO_ON}")
        if one.way.needs and (line := _lacking(one)):
            raise RegrowthError(f"stage {one.stage.name}: {line}; {_GO_ON}")
    if most > free:
        less = "remove what else is there, choose another place with --set out=" + ("" if tidy else ", add --tidy")
        raise RegrowthError(
            f"the stages write {spell_size(most)} to the disk at once, and {spell_size(free)} are free: {less}, "
            f"{_GO_ON}"
        )
    states = max((one.station.states for one in budget if one.way.way == "layer by layer"), default=0)
    temporary = shutil.disk_usage(tempfile.gettempdir()).free
    if states > _STATES_SHARE * available() and states > temporary:
        raise RegrowthError(
            f"hidden states take {spell_size(states)}, more than is free in memory and in {tempfile.gettempdir()} "
            f"({spell_size(temporary)}): scan fewer or shorter samples, name a larger folder in TMPDIR, {_GO_ON}"
        )


def most_on_disk(plan: RecipePlan, budget: Sequence[StageBudget], *, tidy: bool) -> int:
    """Bytes that the stages that run will have written at the moment when it is most."""
    written = {one.stage.name: one.station.disk for one in budget if one.runs}
    left, most = 0, 0
    gone: set[str] = set()
    for number, planned in enumerate(plan.stages):
        left += written.get(planned.stage.name, 0)
        most = max(most, left)
        for stage, _ in done_with(plan.recipe, number) if tidy else ():
            if stage.name not in gone:
                gone.add(stage.name)
                left -= written.get(stage.name, 0)
    return most


def _lacking(one: StageBudget) -> str | None:
    """What to change in a stage that fits with other options alone; None where it has them."""
    needed, options = one.way.needs, options_of(one.station.command)
    names = [word.removeprefix("--") for word in needed.split() if word.startswith("--")]
    if needed == "--load-in-4bit" and one.stage.options.get("load-in-4bit"):
        return None
    if names == ["max-memory"] and one.stage.options.get("max-memory"):
        return None
    room = f"{one.card.name} ({spell_size(room_of(one.card))})"
    if unknown := [name for name in names if name not in options]:
        return f"{one.station.command} does not fit {room}, and has no --{unknown[0]}: take a card of more memory"
    return f"{one.station.command} does not fit {room} as it is set; it would with {needed}"


def _told(query: BudgetQuery, way: StationWay) -> str:
    return f"{query.method if way.name == 'heal' else way.name} does not fit"


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
