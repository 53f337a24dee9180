"""Stages over a list: gone through value by value, spread over arguments, budgeted, tidied, and none run twice."""

import json

import pytest
import yaml

from heal.budget.stations import READ, WRITE
from prune.common.errors import RegrowthError, UsageError
from recipes.budget import budget_of
from recipes.budget_request import budget_request
from recipes.planning import plan_recipe
from recipes.schema import Recipe, RecipeError, load_recipe, parse_changes
from recipes.tidying import done_with
from tests.support.commands import check_refused, run, succeed

LOOP = {
    "name": "loop",
    "about": "Cut twice.",
    "settings": {"model": None, "text": None, "sizes": [1, 2], "n": [], "fit": [], "quick": False, "samples": 4,
                 "out": "runs/loop"},
    "choices": {"quick": {"true": {"samples": 2}}},
    "stages": [
        {"name": "scan", "command": "prune scan", "arguments": ["{model}"],
         "options": {"text": "{text}", "samples": "{samples}", "length": 32, "out": "{out}/scan.json"}},
        {"name": "cut", "each": "size in sizes", "command": "prune cut", "arguments": ["{model}"],
         "options": {"n": "{size}", "scan": "{out}/scan.json", "check": 0, "out": "{out}/cut/{size}"}},
        {"name": "heal", "each": "size in sizes", "command": "heal qlora", "arguments": ["{out}/cut/{size}"],
         "options": {"text": "{text}", "tokens": "{size}k", "rank": 4, "length": 64, "out": "{out}/adapter/{size}"}},
        {"name": "compare", "command": "evaluate compare", "arguments": ["{model}", "{out}/cut/{sizes...}"],
         "options": {"text": ["{text}"], "out": "{out}/bill"}},
    ],
    "files": {"the bill": "{out}/bill"},
    "tidy": ["cut"],
}  # fmt: skip


@pytest.fixture
def loop(tiny_llama, sample_text, tmp_path):
    values = {"model": str(tiny_llama), "text": str(sample_text), "out": str(tmp_path / "out")}
    return Recipe.model_validate(LOOP).resolve(values)


def names(recipe):
    return [stage.name for stage in recipe.stages]


def test_stages_of_a_loop_come_together_value_by_value(loop, tmp_path):
    assert names(loop) == ["scan", "cut-1", "heal-1", "cut-2", "heal-2", "compare"]
    assert loop.stages[3].options["n"] == 2
    assert loop.stages[4].words()[1:2] == [f"{tmp_path}/out/cut/2"]
    assert loop.stages[5].arguments[1:] == [f"{tmp_path}/out/cut/1", f"{tmp_path}/out/cut/2"]
    assert loop.tidy == ["cut-1", "cut-2"]


@pytest.mark.parametrize("written", ["sizes=4,2", "sizes=[4, 2]", "sizes=[4,2]"])
def test_a_list_may_be_written_as_a_user_would(written):
    recipe = Recipe.model_validate(LOOP).resolve(parse_changes(["model=m", "text=t", written]))
    assert names(recipe)[1:5] == ["cut-4", "heal-4", "cut-2", "heal-2"]
    one = Recipe.model_validate(LOOP).resolve(parse_changes(["model=m", "text=t", "sizes=7"]))
    assert names(one) == ["scan", "cut-7", "heal-7", "compare"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("sizes=[]", "--set sizes: name one value at least"),
        ("sizes=2,4,2", "2 stands there twice"),
        ("sizes=2,a/b", "'a/b' cannot name a stage"),
        ("quick=maybe", "--set quick=maybe: there is no such row"),
    ],
)
def test_lists_that_cannot_be_gone_through_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        Recipe.model_validate(LOOP).resolve(parse_changes(["model=m", "text=t", change]))


def test_a_switch_changes_settings_that_are_not_named():
    recipe = Recipe.model_validate(LOOP)
    for changes, samples in ((["quick=true"], 2), (["quick=true", "samples=9"], 9), (["quick=false"], 4)):
        resolved = recipe.resolve(parse_changes(["model=m", "text=t", *changes]))
        assert resolved.stages[0].options["samples"] == samples


def test_of_settings_that_exclude_each_other_one_is_given():
    recipe = Recipe.model_validate({**LOOP, "one_of": [["n", "fit"]]})
    base = ["model=m", "text=t"]
    assert recipe.resolve(parse_changes([*base, "n=2"])).settings["n"] == 2
    with pytest.raises(UsageError, match=r"needs one of n and fit: add --set n=\.\.\. or --set fit=\.\.\."):
        recipe.resolve(parse_changes(base))
    with pytest.raises(UsageError, match="takes one of n and fit, not both"):
        recipe.resolve(parse_changes([*base, "n=2", "fit=8GiB"]))
    rows = {"quick": {"true": {"n": 2}, "fitted": {"fit": "8GiB"}}}
    for document, changes in (
        ({**LOOP, "settings": {**LOOP["settings"], "n": 3}}, []),
        ({**LOOP, "choices": rows}, ["quick=true"]),
    ):
        chosen = Recipe.model_validate({**document, "one_of": [["n", "fit"]]})
        settings = chosen.resolve(parse_changes([*base, *changes, "fit=9GiB"])).settings
        assert (settings["n"], settings["fit"]) == ([], "9GiB")
    fitted = Recipe.model_validate({**LOOP, "choices": rows, "one_of": [["n", "fit"]]})
    settings = fitted.resolve(parse_changes([*base, "quick=fitted", "n=4"])).settings
    assert (settings["n"], settings["fit"]) == (4, [])
    assert recipe.resolve({}, partial=True).settings["n"] == []  # a recipe can be shown without


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"each": "sizes"}, "not of the form `size in sizes`"),
        ({"each": "size in lengths"}, r"\{lengths\} is used but is no setting"),
        ({"each": "n in sizes"}, "out. does not name {n}"),
        ({"each": "fit in sizes", "options": {"n": "{fit}", "out": "{out}/{fit}"}}, "each: fit is a setting already"),
        ({"options": {"n": "{size}", "out": "{out}/cut"}, "each": None}, r"\{size\} is used but is no setting"),
    ],
)
def test_loops_that_make_no_sense_are_refused_with_the_field(tmp_path, stage, words):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({**LOOP, "stages": [{**LOOP["stages"][1], **stage}], "tidy": []}))
    with pytest.raises(RecipeError, match=words):
        load_recipe(str(path))


def test_one_of_names_settings():
    with pytest.raises(ValueError, match="one_of: m is no setting"):
        Recipe.model_validate({**LOOP, "one_of": [["n", "m"]]})


def test_each_stage_of_a_loop_is_reckoned_with_its_own_value(loop):
    asked = {stage.name: budget_request(loop, stage) for stage in loop.stages}
    assert [asked[name].query.n for name in ("cut-1", "heal-1", "cut-2", "heal-2")] == [1, 1, 2, 2]
    assert [asked[name].query.tokens for name in ("heal-1", "heal-2")] == ["1k", "2k"]
    assert [one.stage.name for one in budget_of(plan_recipe(loop, {}))] == names(loop)


def test_a_cut_to_a_size_is_reckoned_with_the_layers_that_have_to_go(loop, tiny_llama):
    size = int(0.98 * (tiny_llama / "model.safetensors").stat().st_size)
    cut = loop.stages[1].model_copy(update={"options": {"fit": f"{size}B", "context": "64", "out": "x"}})
    changed = loop.model_copy(update={"stages": [cut]})
    assert 0 < budget_request(changed, cut).query.n < 8
    small = cut.model_copy(update={"options": {**cut.options, "fit": "1B"}})
    with pytest.raises(RegrowthError, match="no cut of"):
        budget_request(loop.model_copy(update={"stages": [small]}), small)


def test_any_value_may_bring_settings_with_it():
    recipe = Recipe.model_validate({**LOOP, "choices": {"fit": {"*": {"samples": 7}, "8GiB": {"samples": 8}}}})
    for changes, samples in (([], 4), (["fit=9GiB"], 7), (["fit=8GiB"], 8), (["fit=9GiB", "samples=1"], 1)):
        assert recipe.resolve(parse_changes(["model=m", "text=t", *changes])).settings["samples"] == samples


def test_finalists_are_reckoned_as_so_many_healings(loop):
    options = {"out": "x", "tokens": "2k", "finalists": 4, "rank": 4, "length": 64}
    choose = loop.stages[2].model_copy(update={"command": "heal finalists", "options": options})
    changed = loop.model_copy(update={"stages": [*loop.stages[:2], choose]})
    asked = budget_request(changed, choose)
    assert (asked.query.tokens, asked.query.method) == ("2k", "distill")  # rows and their length follow from each
    budget = budget_of(plan_recipe(changed, {}))[-1]
    alone = asked.budget(budget.card)
    heal, merge = (next(one for one in alone.stations if one.name == name) for name in ("heal", "merge"))
    hours = next(way.hours for way in alone.gpus[0].stations if way.name == "heal")
    cuts = 5 * merge.disk * (1 / READ + 1 / WRITE) / 3600  # of each finalist, and of the one that is taken
    assert budget.way.hours == pytest.approx(4 * hours + cuts)
    assert budget.station.work == f"4 times {heal.work}"
    assert budget.station.disk == heal.disk + merge.disk > heal.disk  # one cut at a time
    single = choose.model_copy(update={"options": {**choose.options, "finalists": 1}})
    budget = budget_of(plan_recipe(loop.model_copy(update={"stages": [*loop.stages[:2], single]}), {}))[-1]
    assert budget.station.disk == merge.disk
    assert budget.way.hours < hours / 10
    assert "nothing is healed" in budget.station.work


def test_what_a_loop_made_goes_when_nothing_later_reads_it(loop):
    gone = [[output.rpartition("out/")[2] for _, output in done_with(loop, number)] for number in range(6)]
    assert gone[2] == ["adapter/1"]  # the cut is compared later
    assert gone[3] == ["scan.json", "adapter/1"]
    assert gone[5] == ["scan.json", "cut/1", "adapter/1", "cut/2", "adapter/2"]


def test_a_value_more_runs_its_own_stages_alone(tmp_path, tiny_llama, sample_text):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(sample_text.read_text().splitlines(keepends=True)[:20]))
    path = tmp_path / "loop.yaml"
    path.write_text(yaml.safe_dump({**LOOP, "stages": LOOP["stages"][:2], "files": {}, "tidy": []}, sort_keys=False))
    words = [word for key, value in (("model", tiny_llama), ("text", text), ("out", tmp_path / "out"))
             for word in ("--set", f"{key}={value}")]  # fmt: skip
    succeed("recipe", "run", path, *words, "--set", "sizes=1", "--no-budget")
    planned = json.loads(succeed("recipe", "run", path, *words, "--set", "sizes=1,3", "--dry-run", "--json").stdout)
    assert {stage["name"]: stage["runs"] for stage in planned["stages"]} == {
        "scan": None, "cut-1": None, "cut-3": "never run",
    }  # fmt: skip
    check_refused(run("recipe", "run", path, *words, "--from", "cut"), 2, "no such stage; loop has scan, cut-1, cut-2")


@pytest.mark.parametrize("name", ["frontier", "unreasonable"])
def test_the_recipes_of_several_sizes_are_planned_whole(name, tmp_path):
    changes = {"model": "m", "out": str(tmp_path / "out"), "sizes" if name == "frontier" else "healed": "2,4"}
    recipe = load_recipe(name).resolve(changes)
    plan = plan_recipe(recipe, {})
    assert all(planned.why == "never run" for planned in plan.stages)
    made = {output for planned in plan.stages for output in planned.outputs}
    inside = [word for stage in recipe.stages for word in stage.arguments if word.startswith(str(tmp_path))]
    assert set(inside) <= made  # nothing is read that no stage makes
    lines = {planned.stage.name: planned.line for planned in plan.stages}
    if name == "frontier":
        assert names(recipe)[2:7] == ["cut-2", "choose-2", "patch-2", "heal-2", "merge-2"]
        assert f"compare m {tmp_path}/out/healed/minus-2 {tmp_path}/out/healed/minus-4" in lines["compare"]
        assert "--pass-over" in lines["patch-4"]
    else:
        assert "--protocols letters --few-shot 5" in lines["similar-mmlu"]
        assert lines["similar-boolq"].count("--adapter") == 2
        assert "--scan" not in lines["deepest-mmlu"]
        assert "--few-shot" not in lines["deepest-boolq"]
        assert "--criterion deepest" in lines["deepest-cut-4"]
