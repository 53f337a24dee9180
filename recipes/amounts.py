"""How much the stages of a recipe run, where their options say it: text, questions, answers, needles."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from eval.settings import PLAIN
from eval.settings import Settings as Questions
from eval.sweeps.settings import SweepSettings
from heal.budget.stations import Amounts
from prune.common.layers import parse_layers, starts
from prune.common.sizes import parse_tokens
from prune.families.subject import Subject, open_subject
from prune.instruments.settings import parse_numbers
from recipes.schema import Recipe, Stage


def amounts_of(recipe: Recipe, stage: Stage) -> Amounts:
    """How much the stages run, where their options say it; of questions, what `stage` asks."""
    said: dict[str, Any] = {}
    sizes = {
        "prune scan": {"samples": "samples", "length": "sample_length"},
        "prune cut": {"check-tokens": "check_tokens"},
        "heal patch": {"tokens": "patch_tokens", "length": "patch_length", "batch-size": "patch_rows"},
    }
    for one in recipe.stages:
        for option, amount in sizes.get(one.command, {}).items():
            if (value := one.options.get(option)) is not None:
                said[amount] = parse_tokens(str(value), option=f"--{option}")
        if one.command == "prune scan":
            said["every_token"] = one.options.get("tokens") == "all"
    if stage.command in ("evaluate compare", "evaluate run", "evaluate sweep"):
        said |= _asked_of(stage)
    if stage.command == "evaluate sweep" and stage.arguments:
        said["cuts"] = _cuts(stage)
    return Amounts(**said)


def _cuts(sweep: Stage) -> int:
    """How many cuts a sweep asks.

    Raises:
        UsageError: no such sizes or starts, or sizes that the model does not have.
        RegrowthError: a model that cannot be read.
    """
    from eval.sweeps.plan import parse_sizes  # it brings torch

    given = {name: sweep.options.get(name) for name in ("sizes", "starts", "adapter")}
    adapters = given["adapter"] or ()
    healed = len(adapters) if isinstance(adapters, list | tuple) else 1
    rule = str(given["starts"] or "best")
    layers = subject_of(sweep.arguments[0], sweep).layers
    sizes = parse_sizes(str(given["sizes"] or SweepSettings.sizes), layers, example=SweepSettings.sizes)
    if rule in ("best", "deepest"):
        return len(sizes) + healed
    listed = None if rule == "all" else parse_layers(rule, "--starts")
    return healed + sum(listed is None or start in listed for n in sizes for start in starts(layers, n))


def subject_of(model: str, stage: Stage) -> Subject:
    """A model that a stage names, in the revision that the stage names.

    Raises:
        RegrowthError: it cannot be read.
    """
    revision = stage.options.get("revision")
    return open_subject(model, revision=None if revision is None else str(revision))


def _asked_of(stage: Stage) -> dict[str, Any]:
    """Questions, answers and needles of a stage, as fields of `Amounts`."""
    options, said = stage.options, dict[str, Any](models=max(1, len(stage.arguments)))
    limit, domains = _number(options.get("limit")), _names(options.get("domains"))
    protocols = _names(options.get("protocols")) or list(PLAIN)
    said["tasks_too"] = bool(options.get("tasks"))
    if not domains and said["tasks_too"]:
        said |= {"questions": 0, "answers": 0}
    elif limit is not None and domains:
        said["questions"] = limit * len(domains) * len(protocols)
        said["answers"] = limit * len(domains) * ("generation" in protocols)
    if "slow" in str(options.get("thinking") or ""):  # a chain of thought for each question
        said["answer_tokens"] = parse_tokens(str(options.get("slow-tokens") or 256), option="--slow-tokens")
        said["answers"] = said.get("questions", Amounts.questions)
    if (rows := _number(options.get("batch-size"))) is not None:
        said["batch_size"] = rows
    if (examples := _number(options.get("few-shot"))) is not None:
        said["question_tokens"] = Amounts.question_tokens * (1 + examples)
    if options.get("needles"):
        usual = {field.name: field.default for field in fields(Questions) if field.name.startswith("needle_")}
        lengths = options.get("needle-lengths") or usual["needle_lengths"]
        if not isinstance(lengths, list | tuple):
            lengths = parse_numbers(str(lengths), "--needle-lengths")
        count, depths = (
            int(str(options.get(f"needle-{name}") or usual[f"needle_{name}"])) for name in ("count", "depths")
        )
        said["needle_tokens"] = max(map(int, lengths))
        said["needle_trials"] = count * depths * len(lengths)
    return said


def _number(value: Any) -> int | None:
    """A count that an option gives; None where it gives none, or a word such as `auto`."""
    return int(str(value)) if str(value).isdecimal() else None


def _names(value: Any) -> list[str]:
    """The names that an option gives, as a list or with commas between."""
    parts = value if isinstance(value, list | tuple) else str(value or "").split(",")
    return [str(part).strip() for part in parts if str(part).strip()]
