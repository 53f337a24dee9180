"""What the stages of a recipe ask of `heal budget`: the model, its cut, the settings of healing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heal.budget.document import Budget, Gpu
from heal.budget.plan import plan_budget
from heal.budget.stations import Amounts
from heal.choosing.record import FINALISTS, TOKENS
from heal.settings import BudgetQuery, Settings, TrainingRun
from prune.choosing.fit import OutOfReachError, check_reach, least_layers
from prune.choosing.settings import CutSettings, FitSettings
from prune.common.errors import RegrowthError, UsageError
from prune.common.layers import starts
from prune.common.screen.options import typed
from prune.cutting.planning import target_of
from recipes.amounts import amounts_of, subject_of
from recipes.schema import Recipe, Stage
from recipes.tidying import outputs_of, overlap

_OF_BUDGET = (
    "length", "batch_size", "accumulate", "checkpointing", "rank", "dropout", "targets", "bits", "dtype",
)  # fmt: skip
_HEALING = {"heal qlora": "qlora", "heal distill": "distill", "heal finalists": "distill"}  # and its method


class StageRefusedError(RegrowthError):
    """A stage would refuse its options, and a long one stands before it. Exit code: as the stage would have it."""

    def __init__(self, stage: Stage, error: RegrowthError) -> None:
        super().__init__(f"stage {stage.name}: {error}")
        self.exit_code = error.exit_code


@dataclass(frozen=True)
class BudgetRequest:
    """What `heal budget` is asked for a stage, as that stage will run.

    Attributes:
        model, revision: of the whole model, or of the one that is healed where nothing is cut.
        dtype: of the stage; healing's own is in `settings`.
        in_4bit: the stage asks its questions in NF4.
        device, spread: where it runs: on one card, or with `--device-map` on all.
        settled_by: the stage whose options `query` and `settings` are.
    """

    model: str
    query: BudgetQuery
    settings: Settings
    amounts: Amounts
    settled_by: Stage = field(compare=False)
    revision: str | None = None
    dtype: str = "auto"
    in_4bit: bool = False
    device: str = "auto"
    spread: bool = False

    def budget(self, card: Gpu) -> Budget:
        """What the stage takes, on a card first and then on usual ones.

        Raises:
            StageRefusedError: the settings do not fit the model.
            RegrowthError: the model cannot be read.
        """
        how: dict[str, Any] = {"revision": self.revision, "dtype": self.dtype, "in_4bit": self.in_4bit}
        try:
            return plan_budget(self.model, self.query, self.settings, amounts=self.amounts, card=card, **how)
        except UsageError as error:
            raise StageRefusedError(self.settled_by, error) from None


def budget_request(recipe: Recipe, stage: Stage) -> BudgetRequest | None:
    """What is asked for a stage; None where the recipe does not say what is cut.

    Raises:
        StageRefusedError: the layers or the target of its cut are wrong, or the target is met by the whole model or
            out of reach; or a sweep's sizes are wrong.
        RegrowthError: the model cannot be read.
    """
    made = [output for one in recipe.stages for output in outputs_of(one)]
    cut = _nearest(recipe, stage, ("prune cut",))
    healing = _nearest(recipe, stage, tuple(_HEALING))
    named = cut or healing or stage
    model = next(iter(named.arguments), "")
    if any(overlap(model, output) for output in made):
        return None  # another stage's result: what it is like is not known yet
    if not Path(model).exists() and "/" not in model:
        return None  # neither a folder nor a hub id with its owner: a slip that the stage itself tells
    n, start = (0, None) if cut is None else (_layers_of(model, cut), cut.options.get("start"))
    if n is None:
        return None
    if stage.command == "evaluate run" and cut is not None and stage.arguments[:1] == [model]:
        n, start = 0, None  # the whole model is asked
    query, settings = BudgetQuery(n=n, tokens="1M"), Settings(rank=1)
    if healing is not None:
        query = BudgetQuery(
            n=n,
            start=start if isinstance(start, int) else None,
            tokens=_tokens(healing),
            method=_HEALING[healing.command],
        )
        settings = _settings(healing)
    try:
        amounts = amounts_of(recipe, stage)
    except UsageError as error:
        raise StageRefusedError(stage, error) from None
    revision, of_healing = named.options.get("revision"), stage.command in _HEALING
    return BudgetRequest(
        model,
        query,
        settings,
        amounts,
        healing or named,
        revision=None if revision is None else str(revision),
        dtype="auto" if of_healing else str(stage.options.get("dtype") or "auto"),
        in_4bit=stage.command.startswith("evaluate") and bool(stage.options.get("load-in-4bit")),
        device=str(stage.options.get("device") or "auto"),
        spread=bool(stage.options.get("device-map")),
    )


def _layers_of(model: str, cut: Stage) -> int | None:
    """How many layers a cut takes, at the least where it has a size to fit; None where its options do not tell."""
    try:
        fit = FitSettings(**typed(FitSettings, cut.options))
        if fit.size is None:
            n = cut.options.get("n")
            if not isinstance(n, int):
                return None
            layers, allow_last = subject_of(model, cut).layers, bool(cut.options.get("allow-last"))
            try:
                starts(layers, n, allow_last=allow_last)
            except UsageError as error:
                raise UsageError(f"--n {n}: {error}") from None
            return n
        _ = fit.asked  # what it lacks shows before the model is opened
        subject = subject_of(model, cut)
        target = target_of(fit, subject, CutSettings(), show_progress=False)
        check_reach(target, model)
    except (UsageError, OutOfReachError) as error:
        raise StageRefusedError(cut, error) from None
    return least_layers(target)


def _nearest(recipe: Recipe, stage: Stage, commands: tuple[str, ...]) -> Stage | None:
    """The stage of one of these commands that a stage goes with: itself, the last before it, or the first after it.

    Of stages of a loop it is so that of the same value.
    """
    place = recipe.stages.index(stage)
    before = [one for one in recipe.stages[: place + 1] if one.command in commands]
    after = [one for one in recipe.stages[place + 1 :] if one.command in commands]
    return before[-1] if before else after[0] if after else None


def _tokens(healing: Stage) -> str:
    """What a stage heals on; of finalists, each of them."""
    usual = TOKENS if healing.command == "heal finalists" else TrainingRun.tokens
    return str(healing.options.get("tokens") or usual)


def healings_of(choosing: Stage) -> int:
    """How often `heal finalists` heals: each finalist once, and one that has no rival not at all."""
    finalists = int(str(choosing.options.get("finalists") or FINALISTS))
    return finalists if finalists > 1 else 0


def _settings(stage: Stage) -> Settings:
    """The settings of healing that a budget goes by, of a stage's options."""
    given = typed(Settings, stage.options, only=_OF_BUDGET)
    if "targets" in given:  # where a cut will be is not known yet: all layers are counted
        given["targets"] = given["targets"].partition(":")[0].replace("after-cut", "all")
    return Settings(**given)
