"""`recipe`: run scan, cut, heal and compare as one reproducible whole."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from prune.common.screen.terminal import AsJson, answer, make_app

app = make_app("recipe", "Run scan, cut, heal and compare as one reproducible whole.")

Name = Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A shipped recipe, or a .yaml file.")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the recipes that come with Regrowth. Example: recipe list"""
    from recipes.schema import load_recipe, shipped_recipes

    recipes = [load_recipe(name) for name in shipped_recipes()]

    def table() -> Any:
        from rich.table import Table

        shown = Table("recipe", "stages", "about")
        for recipe in recipes:
            shown.add_row(recipe.name, ", ".join(stage.name for stage in recipe.stages), recipe.about.strip())
        return shown

    answer([{"name": recipe.name, "about": recipe.about.strip()} for recipe in recipes], table, as_json=as_json)


@app.command()
def show(name: Name, change: Changes = None, as_json: AsJson = False) -> None:
    """Show a recipe's settings and the commands it stands for. Example: recipe show demo --set n=8"""
    from recipes.schema import load_recipe, parse_changes

    recipe = load_recipe(name).resolve(parse_changes(change or []), partial=True)
    commands = [(stage.name, shlex.join([stage.command.split()[0], *stage.words()])) for stage in recipe.stages]

    def page() -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        settings = Table("setting", "value", title=recipe.about.strip(), title_justify="left")
        for key, value in recipe.settings.items():
            settings.add_row(key, _typed(value))
        return Group(settings, *[Text(f"{stage}: {line}") for stage, line in commands])

    answer({**recipe.model_dump(), "commands": dict(commands)}, page, as_json=as_json)


def _typed(value: Any) -> str:
    """A setting as --set takes it, and in words where none is given."""
    if value is None or value == []:
        return "not set"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


@app.command()
def run(
    name: Name,
    change: Changes = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Run this stage and all after it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and write nothing.")] = False,
    tidy: Annotated[
        bool, typer.Option("--tidy", help="Delete what no later stage reads any more and is no result of the recipe.")
    ] = False,
    no_budget: Annotated[
        bool, typer.Option("--no-budget", help="Do not estimate what the stages will take, and refuse nothing for it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe; stages whose inputs did not change are not run again.

    Before it starts it prints what the stages will take on this machine, by heal budget, and refuses what cannot fit in
    memory or on the disk. What --tidy deleted is made again where a later run needs it.

    Ends with the exit code of a stage's verdict (`evaluate compare --max-loss`): 3 for NO-GO, 4 for INCONCLUSIVE.

    Example: recipe run demo --set n=8 --set out=runs/demo-8
    """
    from recipes.budget import told_budget
    from recipes.runner import plan_run, run_recipe
    from recipes.schema import load_recipe, parse_changes

    recipe = load_recipe(name).resolve(parse_changes(change or []))
    if dry_run:
        plan = plan_run(recipe, start=start)
        budget, refused = (None, None) if no_budget else told_budget(plan, tidy=tidy)
        told = {"budget": [] if budget is None else [one.to_json() for one in budget.stages], "refused": refused}
        answer({**plan.to_json(), **told}, lambda: _plan_page(plan, budget, refused), as_json=as_json)
        return
    done = run_recipe(recipe, start=start, quiet=as_json, tidy=tidy, budget=not no_budget)
    answer(done.to_json(), lambda: _ending(done), as_json=as_json)
    if done.exit_code:
        raise typer.Exit(done.exit_code)


def _plan_page(plan: Any, budget: Any, refused: str | None) -> Any:
    """What would run, what it would take, and why it would be refused."""
    from rich.console import Group
    from rich.text import Text

    parts = [plan.table(), *([] if budget is None else [budget.table()])]
    return Group(*parts, *([] if refused is None else [Text(refused)]))


def _ending(done: Any) -> Any:
    """Times and memory of the stages, the table where no stage has just printed it, and where things are."""
    from rich.console import Group
    from rich.table import Table

    recipe = done.plan.recipe
    parts: list[Any] = []
    if recipe.show and Path(recipe.show).exists() and not _just_printed(done, recipe.show):
        parts.append(_page(Path(recipe.show)))
    cost = Table("stage", "this time", "seconds", "peak memory, GiB", title="What it cost", title_justify="left")
    for name in (planned.stage.name for planned in done.plan.stages):
        stage = done.record.stages[name]
        state = "ran" if name in done.just_made else "unchanged"
        cost.add_row(name, state, f"{stage.seconds:.0f}", f"{stage.peak_memory_bytes / 2**30:.2f}")
    parts.append(cost)
    there = {what: where for what, where in recipe.files.items() if Path(where).exists()}  # --tidy takes some away
    if there:
        places = Table("what", "where", title="Where things are", title_justify="left")
        for what, where in there.items():
            places.add_row(what, where)
        parts.append(places)
    return Group(*parts)


def _page(path: Path) -> Any:
    if path.suffix == ".json":
        from eval.billing.artefacts import Comparison
        from eval.reports.terminal import comparison_table

        return comparison_table(Comparison.read(path).to_json())
    from rich.markdown import Markdown

    return Markdown(path.read_text(encoding="utf-8"))


def _just_printed(done: Any, shown: str) -> bool:
    made = [output for planned in done.plan.stages if planned.why for output in planned.outputs]
    return any(Path(shown).is_relative_to(output) for output in made)


def main() -> None:
    app()
