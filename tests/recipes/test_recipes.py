"""Recipes: validated before anything runs, run as the very commands, and never twice for the same inputs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from prune.common.errors import RegrowthError, UsageError
from recipes.commands import CommandOption, options_of
from recipes.planning import identity, plan_recipe
from recipes.record import read_stages
from recipes.schema import Recipe, RecipeError, Stage, load_recipe, parse_changes, shipped_recipes
from recipes.tidying import words_read
from tests.support.commands import check_refused, run, succeed

SMALL = {
    "name": "small",
    "about": "Scan and cut.",
    "settings": {"model": None, "text": None, "n": 2, "out": "runs/small", "scan": "{out}/scan.json"},
    "stages": [
        {
            "name": "scan",
            "command": "prune scan",
            "arguments": ["{model}"],
            "options": {"text": "{text}", "samples": 4, "length": 32, "out": "{scan}"},
        },
        {
            "name": "cut",
            "command": "prune cut",
            "arguments": ["{model}"],
            "options": {"n": "{n}", "scan": "{scan}", "out": "{out}/pruned"},
        },
    ],
    "files": {"the pruned model": "{out}/pruned"},
}


@pytest.fixture
def small(tmp_path, tiny_llama, sample_text):
    text = tmp_path / "text.jsonl"
    text.write_text("".join(sample_text.read_text().splitlines(keepends=True)[:20]))
    settings = {"model": str(tiny_llama), "text": str(text), "n": 2, "out": str(tmp_path / "out")}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "settings": {**settings, "scan": "{out}/scan.json"}}, sort_keys=False))
    return path


def _states(path, *words):
    result = succeed("recipe", "run", path, "--dry-run", "--json", *words)
    return {stage["name"]: stage["runs"] for stage in json.loads(result.stdout)["stages"]}


def test_stages_run_once_and_again_only_where_inputs_changed(small, tmp_path):
    assert _states(small) == {"scan": "never run", "cut": "never run"}
    assert not (tmp_path / "out").exists()

    record = json.loads(succeed("recipe", "run", small, "--json").stdout)
    assert record["stages"]["scan"]["peak_memory_bytes"] > 2**20
    assert json.loads((tmp_path / "out/pruned/config.json").read_text())["num_hidden_layers"] == 6
    assert json.loads((tmp_path / "out/recipe.json").read_text()) == record

    assert _states(small) == {"scan": None, "cut": None}
    assert _states(small, "--from", "cut") == {"scan": None, "cut": "asked by --from"}
    assert _states(small, "--set", "n=3") == {"scan": None, "cut": "inputs changed"}

    before = (tmp_path / "out/scan.json").stat().st_mtime_ns
    succeed("recipe", "run", small, "--set", "n=3")
    assert (tmp_path / "out/scan.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out/pruned/config.json").read_text())["num_hidden_layers"] == 5

    (tmp_path / "out/pruned/config.json").write_text("{}")
    assert _states(small, "--set", "n=3")["cut"] == "pruned was changed"
    (tmp_path / "out/scan.json").unlink()
    assert _states(small, "--set", "n=3")["scan"] == "scan.json is gone"
    with (tmp_path / "text.jsonl").open("a") as file:
        file.write('{"text": "One more document, of more than eight tokens."}\n')
    assert _states(small, "--set", "n=3") == {"scan": "inputs changed", "cut": "inputs changed"}


def test_a_failed_stage_is_named_and_the_next_run_goes_on_from_there(small, tmp_path):
    failed = run("recipe", "run", small, "--set", "n=99", "--no-budget")
    assert failed.exit_code == 1
    assert "stage cut failed (exit code" in failed.stderr
    assert (tmp_path / "out/scan.json").exists()
    assert not (tmp_path / "out/pruned").exists()
    assert _states(small) == {"scan": None, "cut": "was not finished"}


@pytest.mark.parametrize(
    ("command", "size"), [("heal qlora", {"tokens": "{n}k", "rank": 4}), ("prune scan", {"samples": "{n}"})]
)
def test_what_was_stopped_goes_on_and_what_changed_begins_anew(small, tmp_path, monkeypatch, command, size):
    recipe = {**SMALL, "stages": [{
        "name": "stage", "command": command, "arguments": ["{model}"],
        "options": {"text": "{text}", **size, "out": "{out}/adapter"},
    }], "files": {}}  # fmt: skip
    recipe["settings"] = yaml.safe_load(small.read_text())["settings"]
    path = tmp_path / "stage.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    program, said = tmp_path / "program", tmp_path / "said"  # stands for one that is stopped
    program.write_text(f'#!/bin/sh\necho "$@" > {said}\nexit 143\n')
    program.chmod(0o755)
    monkeypatch.setattr("recipes.runner.sys.executable", str(program))

    def ending(*more):
        assert run("recipe", "run", path, *more).exit_code == 1
        return said.read_text().split()[-1]

    assert ending().endswith("adapter")  # there is nothing to go on with
    assert ending() == "--resume"
    assert ending("--from", "stage") == "--overwrite"
    assert ending("--set", "n=3") == "--overwrite"
    assert ending("--set", "n=3") == "--resume"


STOPPABLE = """#!{python}
import signal, sys, time

def note(number, _):
    with open({log!r}, "a") as log:
        print("told", number, file=log)
    told.append(number)

told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
with open({log!r}, "a") as log:
    print("begun", file=log)
while len(told) < {enough}:
    time.sleep(0.01)
time.sleep(0.2)  # the checkpoint is saved
with open({log!r}, "a") as log:
    print("saved", file=log)
sys.exit({code})
"""


@pytest.mark.parametrize(
    ("how", "number", "enough", "code", "state"),
    [
        ("terminal", signal.SIGINT, 1, 130, "started"),
        ("alone", signal.SIGTERM, 1, 143, "started"),
        ("alone", signal.SIGINT, 2, 130, "started"),
        ("alone", signal.SIGTERM, 1, 0, "done"),  # the stage came to its end all the same
    ],
)
def test_a_stage_is_told_once_to_stop_and_waited_for(small, tmp_path, how, number, enough, code, state):
    log, program, out = tmp_path / "log", tmp_path / "program", tmp_path / "out"
    log.touch()
    program.write_text(STOPPABLE.format(python=sys.executable, log=str(log), enough=enough, code=code))
    program.chmod(0o755)
    run_it = f"import recipes.runner as r, recipes.cli as c; r.sys.executable = {str(program)!r}; c.main()"
    words = [sys.executable, "-c", run_it, "run", str(small), "--no-budget"]
    recipe = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def wait_for(lines):
        until = time.monotonic() + 300
        while log.read_text().splitlines() != lines:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.02)

    send = os.killpg if how == "terminal" else os.kill  # a terminal's Ctrl-C reaches the whole group
    told = ["begun"]
    for _ in range(enough):
        wait_for(told)
        send(recipe.pid, number)
        told.append(f"told {int(number)}")
    said = recipe.communicate(timeout=300)[1]
    assert recipe.returncode == 128 + number, said
    assert log.read_text().splitlines() == [*told, "saved"]
    assert f"stopped by {number.name} {'in' if code else 'after'} stage scan" in said
    assert read_stages(out / "recipe.json")["scan"].state == state


def test_what_the_recipe_did_not_make_is_never_replaced(small, tmp_path):
    (tmp_path / "out/pruned").mkdir(parents=True)
    (tmp_path / "out/pruned/mine.txt").write_text("mine")
    check_refused(run("recipe", "run", small), 1, "was not made by this recipe")
    assert (tmp_path / "out/pruned/mine.txt").read_text() == "mine"
    assert not (tmp_path / "out/scan.json").exists()


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_shown(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    shown = succeed("recipe", "show", name, "--json").stdout
    assert [line.split()[:2] for line in json.loads(shown)["commands"].values()] == [
        stage.command.split() for stage in recipe.resolve(partial=True).stages
    ]
    assert recipe.stages[0].command in succeed("recipe", "show", name).stdout
    assert name in [recipe["name"] for recipe in json.loads(succeed("recipe", "list", "--json").stdout)]


def test_settings_are_shown_as_they_are_typed():
    shown = succeed("recipe", "show", "demo", "--set", "limit=[1, 2]").stdout
    rows = dict(line.strip("│ ").split("│") for line in shown.splitlines() if line.startswith("│"))
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert (rows["quick"], rows["limit"], rows["gains_rounds"]) == ("false", "[1, 2]", "not set")


def _changed(**update):
    return {**SMALL, **update}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([1], "should be a valid dictionary"),
        (_changed(extra=1), "extra"),
        (_changed(stages=[]), "at least 1 item"),
        (_changed(settings={"n": 1}), "settings need `out`"),
        (_changed(choices={"size": {"big": {"n": 1}}}), "choices: size is no setting"),
        (_changed(choices={"n": {"big": {"m": 1}}}), "choices: m is no setting"),
        (_changed(settings={"out": "a"}), "is no setting"),
        (_changed(stages=[{**SMALL["stages"][0], "command": "prune nothing"}]), "there is no command"),
        (_changed(stages=[{**SMALL["stages"][0], "command": "rm -rf"}]), "not of the form"),
        (_changed(stages=[{**SMALL["stages"][0], "options": {"out": "a", "bad": 1}}]), "has no option --bad"),
        (_changed(stages=[{**SMALL["stages"][0], "options": {}}]), "needs `out`"),
        (_changed(stages=[SMALL["stages"][0]] * 2), "two stages have one name"),
    ],
)
def test_invalid_recipes_are_refused_with_the_field(tmp_path, document, words):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(str(path))
    assert str(path) in str(error.value)


def test_missing_files_and_settings(tmp_path):
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(RecipeError, match="no recipe 'none'; use .*demo"):
        load_recipe("none")
    (tmp_path / "torn.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(str(tmp_path / "torn.yaml"))
    recipe = Recipe.model_validate(SMALL)
    with pytest.raises(UsageError, match="needs a value for 'model'.*--set model="):
        recipe.resolve()
    with pytest.raises(UsageError, match="no such setting"):
        recipe.resolve({"nothing": 1})
    with pytest.raises(UsageError, match="no such stage"):
        plan_recipe(recipe.resolve({"model": "m", "text": "t"}), {}, start="heal")
    with pytest.raises(UsageError, match="write it as key=value"):
        parse_changes(["n"])


@pytest.mark.parametrize("change", ["text={nope}", "text=a/{nope}.txt"])
def test_a_setting_that_names_none_is_refused(change):
    with pytest.raises(UsageError, match=r"\{nope\} stands in a setting but is none itself; there are model, text"):
        Recipe.model_validate(SMALL).resolve(parse_changes(["model=m", change]))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("demo", ["n=abc"], "stage cut (setting n): Invalid value for '--n'"),
        ("demo", ["samples=0"], "stage scan (setting samples): --samples 0"),
        ("demo", ["limit=few"], "stage compare (setting limit): Invalid value for '--limit'"),
        ("frontier", ["sizes=2,x"], "stage cut-x (setting sizes): Invalid value for '--n'"),
        ("paper", ["rank=0"], "stage heal (setting rank): --rank 0"),
    ],
)
def test_a_setting_that_no_command_takes_is_refused_with_its_name(tmp_path, name, changes, words):
    sets = [word for change in [*changes, f"out={tmp_path / 'out'}"] for word in ("--set", change)]
    check_refused(run("recipe", "show", name, *sets), 2, words)
    sets += [] if name == "demo" else ["--set", "model=m"]
    for more in ([], ["--dry-run"]):
        check_refused(run("recipe", "run", name, *sets, *more), 2, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["settings", "choices", "files"])
def test_what_a_recipe_changes_of_another_is_a_mapping(tmp_path, key):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"based_on": "demo", key: ["a"]}))
    with pytest.raises(RecipeError, match=f"{key}: write it as lines of `name: value`"):
        load_recipe(str(path))


def test_an_empty_change_is_an_option_that_is_not_given():
    recipe = load_recipe("regrow").resolve(parse_changes(["model=m", "n=2", "sets="]))
    assert not any("sets" in stage.options for stage in recipe.stages)
    with pytest.raises(UsageError, match="needs a value for 'model'"):
        load_recipe("regrow").resolve(parse_changes(["model=", "n=2"]))
    with pytest.raises(UsageError, match="--set out: .* so it needs a value"):
        load_recipe("regrow").resolve(parse_changes(["model=m", "n=2", "out="]))


def test_words_that_cannot_be_paths_stop_no_plan(tmp_path):
    """An empty one does not stand for the working folder, and a long one may be a system prompt."""
    options = {"out": str(tmp_path / "out"), "data": "be brief; " * 60, "protocols": "", "domains": "a\0b"}
    stage = Stage(name="ask", command="evaluate run", arguments=["m"], options=options)
    assert "" not in words_read(stage)
    recipe = Recipe(name="own", about="", settings={"out": str(tmp_path)}, stages=[stage])
    assert plan_recipe(recipe, {}).stages[0].why == "never run"


def test_settings_keep_their_type_and_may_use_each_other():
    recipe = Recipe.model_validate(SMALL).resolve(parse_changes(["n=4", "model=a/b", "text=x=y", "out=o"]))
    assert recipe.stages[1].words() == ["cut", "a/b", "--n", "4", "--scan", "o/scan.json", "--out", "o/pruned"]
    assert recipe.settings["text"] == "x=y"


@pytest.mark.parametrize(
    ("changes", "rank", "rate"),
    [
        ([], "64", 3e-4),
        (["family=llama-2-7b"], "2", 3e-4),
        (["family=llama-2-70b"], "8", 3e-5),
        (["family=mistral-7b"], "4", 3e-6),
        (["family=phi-2"], "64", 2e-4),
        (["family=mistral-7b", "rank=16"], "16", 3e-6),  # what is named counts
    ],
)
def test_the_papers_table_is_chosen_by_family(changes, rank, rate):
    recipe = load_recipe("paper").resolve(parse_changes(["model=m", *changes]))
    words = next(stage for stage in recipe.stages if stage.name == "heal").words()
    assert words[words.index("--rank") + 1] == rank
    assert float(words[words.index("--learning-rate") + 1]) == rate
    said = {name: words[words.index(f"--{name}") + 1] for name in ("length", "batch-size", "accumulate", "targets")}
    length = "4096" if "family=llama-2-70b" in changes else "2048"
    assert said == {"length": length, "batch-size": "4", "accumulate": "4", "targets": "feed-forward"}


def test_the_fast_and_slow_study_asks_its_sets_in_its_way(tmp_path):
    small = ["source=[data.tar,medqa]", "limit=4", "slow_tokens=64", "prompts=own.yaml", f"out={tmp_path}"]
    words = [word for change in ("model=m", *small) for word in ("--set", change)]
    plan = json.loads(succeed("recipe", "run", "decoupling", *words, "--dry-run", "--json").stdout)
    lines = {stage["name"]: stage["command"] for stage in plan["stages"]}
    prepared = lines.pop("questions")
    assert "--from data.tar --from medqa " in prepared
    assert prepared.split("--domains ")[1].split()[0].count(",") == 14  # the 13, math and medical
    wanted = {"mmlu": 12, "mathqa": 0, "medqa": 0}
    for name in wanted:
        assert f"--sets {name} --thinking fast,slow --prompts own.yaml --slow-tokens 64" in lines[name]
        assert lines[name].split("--domains ")[1].split()[0].count(",") == wanted[name]
    assert "--sets mmlu --prompts own.yaml --limit 50 " in lines["depth"]
    assert "--limit" not in load_recipe("decoupling").resolve({"model": "m"}).stages[1].words()


def test_the_instruments_ask_three_models_the_same(tmp_path):
    small = {
        "model": "m",
        "text": "t.jsonl",
        "lengths": 250,
        "depths": 1,
        "tops": 1,
        "top": 3,
        "originals": "[a.whl, b]",
    }
    changes = [word for key, value in {**small, "out": tmp_path}.items() for word in ("--set", f"{key}={value}")]
    plan = json.loads(succeed("recipe", "run", "instruments", *changes, "--dry-run", "--json").stdout)
    commands = {stage["name"]: stage["command"] for stage in plan["stages"]}
    assert commands["questions"].endswith("--from a.whl --from b")
    assert "--lengths 250 --depths 1" in commands["heads"]
    asked, without, random = (commands[name].split() for name in ("full", "without-top", "without-random"))
    assert "--needles" in asked
    out, heads = asked.index("--out"), ["--ablate-heads", f"{tmp_path}/heads.json", "--top", "3"]
    assert without == [*asked[: out + 1], f"{tmp_path}/without-top", *heads]
    assert random == [*asked[: out + 1], f"{tmp_path}/without-random", *heads, "--ablate-random", "0"]
    runs = [f"{tmp_path}/{name}" for name in ("full", "without-top", "without-random")]
    assert commands["compare"].split() == ["evaluate", "compare", *runs, "--out", f"{tmp_path}/comparison"]


def test_a_family_that_is_in_no_table_is_refused():
    with pytest.raises(UsageError, match="--set family=gpt: there is no such row; paper has llama-2-7b, llama-2-13b"):
        load_recipe("paper").resolve({"model": "m", "family": "gpt"})


def test_options_are_asked_of_the_command_once():
    known = options_of("heal merge")
    assert known["compare-logits"] == CommandOption(takes_value=False, negation="no-compare-logits")
    assert known["overwrite"] == CommandOption(takes_value=False)
    assert known["out"] == CommandOption(takes_value=True)
    assert "help" not in known
    assert options_of("heal merge") is known


def test_flags_are_given_or_negated_and_on_and_off_are_words():
    """YAML reads `off` as false."""
    merge = {"name": "merge", "command": "heal merge", "arguments": ["m"]}
    heal = {"name": "heal", "command": "heal qlora", "arguments": ["m"]}
    merges = [
        Stage(**merge, options={"out": "a", "compare-logits": value, "overwrite": value, "held-out": None}).words()
        for value in (True, False)
    ]
    assert merges[0] == ["merge", "m", "--out", "a", "--compare-logits", "--overwrite"]
    assert merges[1] == ["merge", "m", "--out", "a", "--no-compare-logits"]
    words = [Stage(**heal, options={"out": "a", "checkpointing": way}).words()[-1] for way in (True, False, "auto")]
    assert words == ["on", "off", "auto"]


def test_identity_follows_content(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("a")
    first = identity(tmp_path / "d")
    assert first == identity(tmp_path / "d")
    (tmp_path / "d/a").write_text("b")
    assert identity(tmp_path / "d") != first
    assert identity(tmp_path / "none") is None


def test_two_runs_in_one_folder_do_not_mix(tmp_path):
    from recipes.runner import _alone

    with _alone(tmp_path), pytest.raises(RegrowthError, match="another recipe runs in"), _alone(tmp_path):
        pass


def test_a_verdict_is_a_result_and_the_recipes_exit_code(small, tmp_path, monkeypatch):
    succeed("recipe", "run", small)
    program = tmp_path / "program"  # stands for a command that writes its results and gives a verdict on them
    program.touch(0o755)
    monkeypatch.setattr("recipes.runner.sys.executable", str(program))
    for code, verdict in ((3, "NO-GO"), (4, "INCONCLUSIVE")):
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        again = run("recipe", "run", small, "--from", "cut", "--json")
        assert again.exit_code == code
        stage = json.loads(again.stdout)["stages"]["cut"]
        assert stage["state"] == "done"
        assert stage["verdict"] == verdict
        unchanged = run("recipe", "run", small, "--json")  # nothing runs, and the verdict stands
        assert unchanged.exit_code == code
    program.write_text("#!/bin/sh\nexit 1\n")
    failed = run("recipe", "run", small, "--from", "cut")
    assert failed.exit_code == 1
    assert "stage cut failed (exit code 1)" in failed.stderr
