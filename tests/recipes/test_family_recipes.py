"""The recipes of today's families and of the paper: each size is planned on the published config, without weights."""

import json

import pytest

from recipes.budget import budget_of
from recipes.planning import plan_recipe
from recipes.schema import SHIPPED, RecipeError, load_recipe
from tests.support.commands import succeed
from tests.support.family_recipes import FAMILIES, head, layers_of, sizes_of
from tests.support.hollow import PUBLISHED, hollow_checkpoint

ALL = [(name, "size", size) for name in FAMILIES for size in sizes_of(load_recipe(name))]
ALL += [("paper", "family", row) for row in load_recipe("paper").choices["family"]]
ONE_EACH = {name: row for name, _, row in ALL}


@pytest.mark.parametrize("name", ONE_EACH)
def test_each_row_names_a_published_model_and_a_cut_that_fits_it(name):
    recipe = load_recipe(name)
    for choice, row in [(choice, row) for of, choice, row in ALL if of == name]:
        settings = recipe.resolve({choice: row}).settings
        assert settings["model"] in PUBLISHED
        assert 0 < settings["n"] < layers_of(settings["model"]) / 2
        if choice == "size":
            assert row in settings["out"]


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_dry_run_plans_every_stage_from_config_and_headers(name, tmp_path):
    """With the last row of each recipe: the largest size."""
    choice = "family" if name == "paper" else "size"
    model = load_recipe(name).resolve({choice: ONE_EACH[name]}).settings["model"]
    hollow = hollow_checkpoint(tmp_path / "model", model)
    line = ["--set", f"{choice}={ONE_EACH[name]}", "--set", f"model={hollow}", "--set", f"out={tmp_path / 'out'}"]
    shown = json.loads(succeed("recipe", "run", name, *line, "--dry-run", "--no-budget", "--json").stdout)
    recipe = load_recipe(name).resolve({choice: ONE_EACH[name], "model": str(hollow), "out": str(tmp_path / "out")})
    assert [stage["name"] for stage in shown["stages"]] == [stage.name for stage in recipe.stages]
    reckoned = budget_of(plan_recipe(recipe, {}))
    assert {one.stage.name for one in reckoned} >= {"scan", "cut", "heal", "merge", "compare"}
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_says_what_heal_budget_says(name, tmp_path):
    text = (SHIPPED / f"{name}.yaml").read_text("utf-8")
    assert text.startswith(head(name, tmp_path)), "run `python -m tests.support.family_recipes`"


def test_a_size_to_fit_takes_the_place_of_a_familys_layers():
    cut = next(stage for stage in load_recipe("qwen-3").resolve({"fit": "14GiB"}).stages if stage.name == "cut")
    assert cut.words()[:6] == ["cut", "Qwen/Qwen3-8B", "--fit", "14GiB", "--context", "8k"]
    assert "--n" not in cut.words()


def test_a_recipe_may_be_based_on_a_shipped_one_and_on_no_other(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nabout: mine\nbased_on: regrow\nsettings: {rank: 8, mine: 1}\n")
    own, base = load_recipe(str(path)), load_recipe("regrow")
    assert own.stages == base.stages
    assert own.settings == {**base.settings, "rank": 8, "mine": 1}
    for other, why in (("nothing", "there is no recipe"), ("qwen-3", "is based on another recipe itself; use regrow")):
        path.write_text(f"name: own\nabout: mine\nbased_on: {other}\n")
        with pytest.raises(RecipeError, match=why):
            load_recipe(str(path))
