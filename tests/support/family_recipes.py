"""The heads of the recipes of today's families: which card each size runs on. `python -m tests.support.family_recipes`
writes them anew.
"""

import tempfile
from pathlib import Path

from heal.budget.document import Budget
from heal.budget.plan import plan_budget
from heal.settings import BudgetQuery, DistillSettings
from prune.models.memory.footprint import GIB
from recipes.schema import SHIPPED, Recipe, load_recipe
from tests.support.hollow import hollow_checkpoint

FAMILIES = ("gemma-3", "llama-3", "mistral-small", "olmo", "phi-4", "qwen-2.5", "qwen-3", "smollm")


def sizes_of(recipe: Recipe) -> list[str]:
    return list(recipe.choices["size"])


def budget_of(recipe: Recipe, folder: Path) -> Budget:
    """What the recipe's settings take, of the model in a folder."""
    settings = recipe.settings
    healing = DistillSettings(
        bits=settings["bits"], rank=settings["rank"], batch_size="auto", checkpointing="auto"
    )  # as the stage `heal` of regrow asks
    query = BudgetQuery(n=settings["n"], tokens=settings["tokens"], method="distill")
    return plan_budget(folder, query, healing, in_4bit=settings["load_in_4bit"])


def head(name: str, folder: Path) -> str:
    """The comment above a recipe: its command, and for each size the least card on which every stage runs."""
    recipe = load_recipe(name)
    lines = [f"recipe run {name} --set size={recipe.settings['size']}", ""]
    lines += ["size   layers cut  card       GiB  hours  model", "-" * 72]
    for size in sizes_of(recipe):
        chosen = recipe.resolve({"size": size})
        model = str(chosen.settings["model"])
        budget = budget_of(chosen, hollow_checkpoint(folder / name / size, model))
        verdict = next(v for v in budget.gpus if all(way.way != "none" for way in v.stations))
        most = max(way.memory for way in verdict.stations) / GIB
        hours = sum(way.hours or 0 for way in verdict.stations)
        cut = f"{chosen.settings['n']} of {layers_of(model)}"
        lines.append(f"{size:<6} {cut:<11} {verdict.gpu.name:<10} {most:4.1f} {hours:6.1f}  {model}")
    lines += ["", "Card: the first of `heal budget`'s on which every stage runs; memory and hours on it, as estimated."]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def layers_of(model: str) -> int:
    from tests.support.hollow import PUBLISHED

    fields = PUBLISHED[model][1]
    return fields.get("text_config", fields)["num_hidden_layers"]


def without_head(text: str) -> str:
    """A recipe's file without its head."""
    lines = text.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "".join(lines[first:])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        for name in FAMILIES:
            path = SHIPPED / f"{name}.yaml"
            path.write_text(head(name, Path(made)) + without_head(path.read_text("utf-8")), "utf-8")
