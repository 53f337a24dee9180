"""What the stages of a recipe ask of `heal budget`: the model, its cut, the settings of healing, how much text runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from heal.budget.cards import CPU, pick_card
from heal.budget.stations import Amounts
from heal.choosing.record import FINALISTS, TOKENS
from heal.settings import BudgetQuery, Settings, parse_checkpointing
from prune.common.sizes import parse_tokens
from prune.scanning.settings import parse_batch_size
from recipes.schema import Recipe, Stage
from recipes.tidying import outputs_of, overlap

_HEALING = {"heal qlora": "qlora", "heal distill": "distill", "heal finalists": "distill"}  # and its method


def asked_budget(recipe: Recipe, stage: Stage) -> tuple[str, BudgetQuery, Settings] | None:
    """The model, and what `heal budget` is asked for a stage; None where the recipe does not say what is cut."""
    made = [output for one in recipe.stages for output in outputs_of(one)]
    cut = _nearest(recipe, stage, ("prune cut",))
    healing = _nearest(recipe, stage, tuple(_HEALING))
    device = stage.options.get("device")
    card = CPU if device == CPU or pick_card(None) is None else None
    if cut is not None:
        n = cut.options.get("n")
        if not isinstance(n, int):
            return None
        named, start = cut, cut.options.get("start")
    else:
        n, start, named = 0, None, healing or stage
    model = next(iter(named.arguments), "")
    if any(overlap(model, output) for output in made):
        return None  # another stage's result: what it is like is not known yet
    if not Path(model).exists() and "/" not in model:
        return None  # neither a folder nor a hub id with its owner: a slip that the stage itself tells
    if healing is None:
        return model, BudgetQuery(n=n, card=card, tokens="1M"), Settings(rank=1)
    query = BudgetQuery(
        n=n,
        start=start if isinstance(start, int) else None,
        card=card,
        tokens=_tokens(healing),
        method=_HEALING[healing.command],
    )
    return model, query, Settings(**dict(_settings(healing)))


def _nearest(recipe: Recipe, stage: Stage, commands: tuple[str, ...]) -> Stage | None:
    """The stage of one of these commands that a stage goes with: itself, the last before it, or the first after it.

    Of stages of a loop it is so that of the same value.
    """
    place = recipe.stages.index(stage)
    before = [one for one in recipe.stages[: place + 1] if one.command in commands]
    after = [one for one in recipe.stages[place + 1 :] if one.command in commands]
    return before[-1] if before else after[0] if after else None


def _tokens(healing: Stage) -> str:
    """What a stage heals on; finalists each have their share."""
    if healing.command != "heal finalists":
        return str(healing.options.get("tokens", "2M"))
    each = parse_tokens(str(healing.options.get("tokens") or TOKENS))
    return str(each * int(str(healing.options.get("finalists") or FINALISTS)))


def _settings(stage: Stage) -> Iterator[tuple[str, Any]]:
    """The settings of healing that a budget goes by, of a stage's options."""
    known = {field.name for field in fields(Settings)}
    for name, value in stage.options.items():
        field = name.replace("-", "_")
        if value is None or field not in known:
            continue
        if field == "checkpointing":
            yield field, value if isinstance(value, bool) else parse_checkpointing(str(value))
        elif field == "batch_size":
            yield field, parse_batch_size(str(value))
        elif field in ("bits", "rank", "length", "accumulate"):
            yield field, int(str(value))
        elif field == "dropout":
            yield field, float(str(value))
        elif field == "targets":  # where a cut will be is not known yet: all layers are counted
            yield field, str(value).partition(":")[0].replace("after-cut", "all")


def amounts_of(recipe: Recipe) -> Amounts:
    """How much the stages run, where their options say it."""
    said: dict[str, Any] = {}
    sizes = {
        "prune scan": {"samples": "samples", "length": "sample_length"},
        "prune cut": {"check-tokens": "check_tokens"},
        "heal patch": {"tokens": "patch_tokens", "length": "patch_length", "batch-size": "patch_rows"},
        "evaluate compare": {"batch-size": "batch_size"},
    }
    for stage in recipe.stages:
        for option, amount in sizes.get(stage.command, {}).items():
            if (value := stage.options.get(option)) is not None:
                said[amount] = parse_tokens(str(value))
        if stage.command in ("evaluate compare", "evaluate run"):
            said["models"] = max(len(stage.arguments), said.get("models", 1))
            limit, domains = stage.options.get("limit"), str(stage.options.get("domains") or "")
            if isinstance(limit, int) and domains:
                said["questions"] = 2 * limit * len(domains.split(","))  # choices and answers of each domain
                said["answers"] = said["questions"] // 2
            if "slow" in str(stage.options.get("thinking") or ""):  # a chain of thought for each question
                said["answer_tokens"] = parse_tokens(str(stage.options.get("slow-tokens") or 256))
                said["answers"] = said.get("questions", Amounts.questions)
    return Amounts(**said)
