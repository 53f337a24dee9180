"""What the stages of a recipe will take: told before they run, and refused where it cannot fit.

The numbers are those of `heal budget` for the settings that the stages have. Stages that it knows nothing of, such as
`evaluate prepare`, are passed over.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heal.budget.cards import CPU, card_at
from heal.budget.document import Budget, Gpu, Station, StationWay
from heal.budget.stations import READ, WRITE, room_of, states_on, trained_in, width
from heal.budget.table import gib, hours_words, way_words
from prune.checkpoint.downloading import cache_folder, missing_bytes
from prune.common.errors import RegrowthError, UsageError, first_line
from prune.common.files.room import existing, free_bytes
from prune.common.machine.memory import available
from prune.common.screen.tables import Table
from prune.common.screen.terminal import screen
from prune.common.sizes import spell_size
from prune.models.at_once import STATES_SHARE
from recipes.budget_request import BudgetRequest, StageRefusedError, budget_request, healings_of
from recipes.commands import options_of
from recipes.planning import RecipePlan
from recipes.schema import Stage
from recipes.tidying import done_with

if TYPE_CHECKING:
    from rich.console import Group

_STATIONS = {
    "prune scan": "scan", "prune cut": "cut", "heal patch": "patch", "heal qlora": "heal", "heal distill": "heal",
    "heal finalists": "heal",
    "heal merge": "merge", "evaluate run": "run", "evaluate compare": "compare", "evaluate sweep": "sweep",
}  # fmt: skip
_GO_ON = "or go on as it is with --no-budget"


@dataclass(frozen=True)
class StageBudget:
    """What one stage will take on the card that is here.

    Attributes:
        model, revision: that it is about, and `stored` the bytes of its files.
        wide: how much wider than bf16 its values are there.
        refused: why no setting fits.
    """

    stage: Stage
    model: str
    revision: str | None
    stored: int
    runs: bool
    card: Gpu
    wide: int
    station: Station
    way: StationWay
    refused: str | None

    def to_json(self) -> dict[str, Any]:
        """`stage`, `card`, and the fields of `heal budget --json` for its station."""
        told = self.way.model_dump(mode="json") | {"disk": self.station.disk, "work": self.station.work}
        return {"stage": self.stage.name, "runs": self.runs, "card": self.card.name, **told}


@dataclass(frozen=True)
class RecipeBudget:
    """What the stages of a plan will take, and what there is.

    Attributes:
        stages: those that are known, those that do not run too.
        most: bytes that the stages will have written at the moment when it is most, of `free` in the recipe's folder.
        missing: bytes of the models that come from the hub, into `cache`.
        tidy: intermediates go as soon as no later stage reads them.
    """

    stages: tuple[StageBudget, ...]
    most: int
    free: int
    missing: int
    cache: Path
    on_one_disk: bool
    tidy: bool

    @property
    def running(self) -> list[StageBudget]:
        return [one for one in self.stages if one.runs]

    def table(self) -> Group:
        """The stages that run, each with its way on the card; and what is to come from the hub."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [budget_table(self.running, self.most, self.free)] if self.running else []
        if self.missing:
            line = f"{spell_size(self.missing)} of the model come from the hub, into {self.cache}"
            parts.append(Text(line, style="dim"))
        return Group(*parts)

    def refusal(self) -> str | None:
        """What cannot fit, what to change, and the way to go on anyway, in one line; None where all fits."""
        for one in self.running:
            if line := one.refused or (_lacking(one) if one.way.needs else None):
                return f"stage {one.stage.name}: {line}; {_GO_ON}"
        most = self.most + (self.missing if self.on_one_disk else 0)
        if most > self.free:
            less = "remove what else is there, choose another place with --set out="
            return (
                f"the stages write {spell_size(most)} to the disk at once, and {spell_size(self.free)} are free: {less}"
                f"{'' if self.tidy else ', add --tidy'}, {_GO_ON}"
            )
        states = max((_states_off(one) for one in self.running if one.way.way == "layer by layer"), default=0)
        temporary = free_bytes(Path(tempfile.gettempdir()))
        if states > STATES_SHARE * available() and states > temporary:
            return (
                f"hidden states take {spell_size(states)}, more than is free in memory and in {tempfile.gettempdir()} "
                f"({spell_size(temporary)}): scan fewer or shorter samples, name a larger folder in TMPDIR, {_GO_ON}"
            )
        if self.missing > (there := free_bytes(self.cache)):
            return (
                f"{spell_size(self.missing)} of the model are yet to come from the hub, and {spell_size(there)} are "
                f"free in {self.cache}: make room there, name a larger place in HF_HOME, {_GO_ON}"
            )
        return None


def budget_of(plan: RecipePlan) -> tuple[StageBudget, ...]:
    """What the stages will take, those that do not run too; empty where no stage is known.

    Raises:
        RegrowthError: the model cannot be read, or a stage's settings do not fit it.
    """
    recipe, found = plan.recipe, []
    budgets: dict[BudgetRequest, Budget] = {}
    cards: dict[tuple[str, bool], Gpu] = {}
    for planned in plan.stages:
        name, asked = _STATIONS.get(planned.stage.command), None
        if name is None or (asked := budget_request(recipe, planned.stage)) is None:
            continue
        if (place := (asked.device, asked.spread)) not in cards:
            cards[place] = card_at(asked.device, spread=asked.spread)
        if asked not in budgets:
            budgets[asked] = asked.budget(cards[place])
        budget = budgets[asked]
        numbers = {station.name: number for number, station in enumerate(budget.stations)}
        if (number := numbers.get(name)) is None:
            continue
        verdict = budget.gpus[0]
        why = dict(zip((one.name for one in verdict.stations if one.way == "none"), budget.refused, strict=True))
        station, way, refused = budget.stations[number], verdict.stations[number], None
        if name == "scan" and _placed(planned.stage):
            way = way.model_copy(update={"needs": ""})
        elif way.way == "none":
            refused = why[name]
        if planned.stage.command == "heal finalists":
            pruned = budget.stations[numbers["merge"]].disk
            station, way = _choosing(station, way, healings_of(planned.stage), pruned)
            refused = refused if healings_of(planned.stage) else None
        dtype = trained_in(asked.settings.dtype) if name in ("heal", "merge") else asked.dtype
        wide = width(verdict.gpu, dtype, budget.stored, budget.parameters)
        about = (planned.stage, asked.model, asked.revision, budget.stored, planned.why is not None)
        found.append(StageBudget(*about, verdict.gpu, wide, station, way, refused))
    return tuple(found)


def _choosing(heal: Station, way: StationWay, healings: int, pruned: int) -> tuple[Station, StationWay]:
    """`heal finalists` of the healing of one finalist: so many one after another, each of a trial cut that goes again.

    Args:
        healings: 0: one finalist is cut, and nothing is healed.
        pruned: bytes of a cut.
    """
    copying = pruned * (1 / READ + 1 / WRITE) / 3600
    if not healings:
        work = "one finalist, which is cut again; nothing is healed"
        station = heal.model_copy(update={"command": "heal finalists", "disk": pruned, "work": work})
        return station, StationWay(name=way.name, way="resident", memory=0, hours=copying, needs="")
    told = {"command": "heal finalists", "disk": heal.disk + pruned, "work": f"{healings} times {heal.work}"}
    hours = None if way.hours is None else healings * way.hours + (healings + 1) * copying
    return heal.model_copy(update=told), way.model_copy(update={"hours": hours})


def _placed(scan: Stage) -> bool:
    """Whether a scan's options settle where its weights go: in few bits, or where accelerate finds room for them."""
    return any(scan.options.get(name) for name in ("device-map", "load-in-4bit"))


def reckon(plan: RecipePlan, *, tidy: bool) -> RecipeBudget:
    """What a plan will take, and what there is.

    Raises:
        RegrowthError: see `budget_of`.
    """
    stages, folder, cache = budget_of(plan), existing(Path(str(plan.recipe.settings["out"]))), cache_folder()
    models = {(one.model, one.revision) for one in stages if one.runs}
    missing = sum(missing_bytes(model, revision=revision) for model, revision in models)
    free, most = free_bytes(folder), most_on_disk(plan, stages, tidy=tidy)
    return RecipeBudget(stages, most, free, missing, cache, cache.stat().st_dev == folder.stat().st_dev, tidy)


def told_budget(plan: RecipePlan, *, tidy: bool) -> tuple[RecipeBudget | None, str | None]:
    """The budget of a plan for `--dry-run`, and why a run would be refused; or None, and why it cannot be told.

    Raises:
        StageRefusedError: a setting that does not fit the model.
    """
    try:
        budget = reckon(plan, tidy=tidy)
        return budget, budget.refusal()
    except StageRefusedError as error:
        if error.exit_code == UsageError.exit_code:
            raise
        return None, str(error)
    except (RegrowthError, ValueError) as error:
        return None, _untold(error)


def check_budget(plan: RecipePlan, *, tidy: bool) -> None:
    """Print what the stages that run will take, and refuse what cannot fit. Where it cannot be told, say so.

    Args:
        tidy: intermediates go as soon as no later stage reads them.

    Raises:
        StageRefusedError: a setting does not fit the model, or the target of a cut cannot be reached.
        RegrowthError: a stage cannot fit in memory, or what the stages write not on the disk.
    """
    try:
        budget = reckon(plan, tidy=tidy)
    except StageRefusedError:
        raise
    except (RegrowthError, ValueError) as error:
        screen().print(_untold(error), style="dim")
        return
    if budget.running:
        screen().print(budget.table())
        if line := budget.refusal():
            raise RegrowthError(line)


def _untold(error: Exception) -> str:
    return f"What the stages will take cannot be told: {first_line(error)}"


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


def _states_off(one: StageBudget) -> int:
    """Bytes of a stage's hidden states that do not stand on a GPU."""
    on_card = 0 if one.card.name == CPU else states_on(one.card, one.station, one.wide)
    return one.wide * one.station.states - on_card


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
