"""What a recipe will take is told before it runs, what cannot fit is refused, and --tidy takes intermediates away."""

import json
import re
import shutil
from collections import namedtuple

import pytest
import yaml

import recipes.budget as budgets
from heal.budget.cards import GPUS
from prune.choosing.settings import FitSettings
from prune.common.errors import RegrowthError, UsageError
from prune.models.memory.footprint import GIB
from recipes.amounts import amounts_of
from recipes.budget import budget_of, most_on_disk
from recipes.planning import plan_recipe
from recipes.record import StageRecord, read_stages
from recipes.runner import run_recipe
from recipes.schema import Recipe, Stage, load_recipe
from recipes.tidying import done_with
from tests.support.commands import check_refused, run, succeed

CARDS = {gpu.name: gpu for gpu in GPUS}
CHAIN = {
    "name": "chain",
    "about": "All of it.",
    "settings": {"model": None, "text": "t.jsonl", "n": 2, "out": "runs/chain"},
    "stages": [
        {"name": "scan", "command": "prune scan", "arguments": ["{model}"],
         "options": {"text": "{text}", "samples": 4, "length": 32, "out": "{out}/scan.json"}},
        {"name": "cut", "command": "prune cut", "arguments": ["{model}"],
         "options": {"n": "{n}", "scan": "{out}/scan.json", "check": 0, "out": "{out}/pruned"}},
        {"name": "heal", "command": "heal qlora", "arguments": ["{out}/pruned"],
         "options": {"text": "{text}", "rank": 4, "length": 64, "tokens": "1k", "out": "{out}/adapter"}},
        {"name": "merge", "command": "heal merge", "arguments": ["{out}/adapter"],
         "options": {"out": "{out}/healed"}},
    ],
    "files": {"the pruned model": "{out}/pruned", "the healed model": "{out}/healed"},
    "tidy": ["cut"],
}  # fmt: skip


def test_an_amount_that_is_none_is_told_with_its_own_option():
    stage = Stage(name="patch", command="heal patch", arguments=["m"], options={"out": "o", "length": "long"})
    recipe = Recipe(name="own", about="", settings={"out": "o"}, stages=[stage])
    with pytest.raises(UsageError, match="^--length 'long'"):
        amounts_of(recipe, stage)


@pytest.fixture
def chain(tiny_llama, sample_text, tmp_path):
    """The recipe on a tiny model, resolved."""
    values = {"model": str(tiny_llama), "text": str(sample_text), "out": str(tmp_path / "out")}
    return Recipe.model_validate(CHAIN).resolve(values)


def planned(recipe, records=None, start=None):
    return plan_recipe(recipe, records or {}, start=start)


def test_each_stage_has_its_line_on_the_card_that_is_here(chain, monkeypatch):
    plan = planned(chain)
    on_cpu = budget_of(plan)
    assert [one.stage.name for one in on_cpu] == ["scan", "cut", "heal", "merge"]
    assert {one.card.name for one in on_cpu} == {"cpu"}
    assert all(one.way.way in ("resident", "4 bits") and not one.way.needs and one.runs for one in on_cpu)
    assert on_cpu[0].station.work.startswith("4 samples of 32 tokens")
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (CARDS["L4"],))
    assert {one.card.name for one in budget_of(plan)} == {"L4"}
    heal = chain.stages[2]
    on_cpu_asked = heal.model_copy(update={"options": {**heal.options, "device": "cpu"}})
    changed = chain.model_copy(update={"stages": [*chain.stages[:2], on_cpu_asked, chain.stages[3]]})
    assert [one.card.name for one in budget_of(planned(changed))] == ["L4", "L4", "cpu", "L4"]


def test_shipped_recipes_are_reckoned(tiny_llama, tmp_path):
    for name in ("demo", "regrow", "paper"):
        changes = {"model": str(tiny_llama), "out": str(tmp_path / name), "n": 2}
        recipe = load_recipe(name).resolve({**changes, **({} if name == "demo" else {"rank": 4})})
        healing = next(stage for stage in recipe.stages if stage.name == "heal")
        small = healing.model_copy(update={"options": {**healing.options, "rank": 4, "length": 64}})
        recipe = recipe.model_copy(update={"stages": [small if s.name == "heal" else s for s in recipe.stages]})
        named = [one.stage.name for one in budget_of(planned(recipe))]
        assert named == [stage.name for stage in recipe.stages if stage.name != "questions"]
    table = tmp_path / "demo.yaml"
    table.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    document = json.loads(succeed("recipe", "run", table, "--dry-run", "--json").stdout)
    assert {one["stage"] for one in document["budget"]} == set(named)
    assert document["budget"][0]["memory"] > 0
    assert json.loads(succeed("recipe", "run", table, "--dry-run", "--no-budget", "--json").stdout)["budget"] == []


def test_what_does_not_fit_in_memory_is_refused_before_anything_runs(chain, monkeypatch, tmp_path):
    tiny_card = CARDS["L4"].model_copy(update={"name": "small", "memory": GIB})
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (tiny_card,))
    with pytest.raises(RegrowthError, match="stage cut: cut does not fit small even layer by layer .* --no-budget"):
        run_recipe(chain)
    assert not (tmp_path / "out" / "scan.json").exists()


def test_settings_that_would_fit_are_named(chain, monkeypatch, tmp_path):
    heal = chain.stages[2]
    large = heal.model_copy(update={"options": {**heal.options, "batch-size": 4096, "checkpointing": False}})
    only = chain.model_copy(update={"stages": [*chain.stages[:2], large]})
    least = CARDS["L4"].model_copy(update={"name": "small", "memory": 2 * GIB})
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (least,))
    budget = budget_of(planned(only))
    assert "--batch-size" in budget[2].way.needs
    free = {"most": 0, "free": 1, "missing": 0, "cache": tmp_path, "on_one_disk": False, "tidy": False}
    line = budgets.RecipeBudget(budget, **free).refusal()
    assert re.search("stage heal: heal qlora does not fit small .* it would with .*--batch-size", line)


def test_a_full_disk_is_refused_with_the_ways_to_less(chain, monkeypatch):
    disk = namedtuple("Disk", "free")(1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: disk)
    with pytest.raises(
        RegrowthError, match=r"write [0-9.]+ MiB to the disk at once, and 0.0 MiB are free: .*--set out="
    ):
        run_recipe(chain)


def test_what_is_yet_to_come_from_the_hub_needs_its_room(chain, tiny_llama, monkeypatch):
    assert budgets.missing_bytes(str(tiny_llama), revision=None) == 0
    monkeypatch.setattr(budgets, "missing_bytes", lambda model, revision: 1 << 60)
    with pytest.raises(RegrowthError, match="to the disk at once"):  # on one disk with what the stages write
        budgets.check_budget(planned(chain), tidy=False)
    monkeypatch.setattr(budgets, "cache_folder", lambda: budgets.Path("/dev/shm"))
    with pytest.raises(
        RegrowthError, match="yet to come from the hub, .* name a larger place in HF_HOME, .*--no-budget"
    ):
        budgets.check_budget(planned(chain), tidy=False)


def with_options(recipe, number, **options):
    """The recipe with a stage's options changed."""
    stage = recipe.stages[number]
    stage = stage.model_copy(
        update={"options": {**stage.options, **{k.replace("_", "-"): v for k, v in options.items()}}}
    )
    return recipe.model_copy(update={"stages": [*recipe.stages[:number], stage, *recipe.stages[number + 1 :]]})


def asking(recipe, model, command="evaluate run", **options):
    """The recipe with a stage that asks a model."""
    stage = {"name": "ask", "command": command, "arguments": [model]}
    options = {name.replace("_", "-"): value for name, value in options.items()}
    stage["options"] = {"data": "questions", "domains": "medical", "out": f"{recipe.settings['out']}/asked", **options}
    return recipe.model_copy(update={"stages": [*recipe.stages, Stage.model_validate(stage)]})


def test_a_stage_is_reckoned_with_its_own_options(chain, tiny_llama, monkeypatch, tmp_path):
    first, second = (CARDS["L4"].model_copy(update={"name": name}) for name in ("first", "second"))
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (first, second))

    def last(recipe):
        return budget_of(planned(recipe))[-1]

    def whole(**options):
        return last(asking(chain, str(tiny_llama), **options))

    plain = whole()
    cut = last(asking(chain, str(tmp_path / "out" / "pruned")))
    assert cut.way.memory < plain.way.memory  # the whole model was asked
    assert whole(dtype="bfloat16").way.memory < whole(dtype="float32").way.memory == plain.way.memory  # as stored
    assert whole(batch_size=64).way.memory > plain.way.memory
    assert "120 tokens" in plain.station.work
    needles = whole(needles=True, needle_text="t.jsonl", needle_lengths="256,512", needle_count=4)
    assert needles.way.memory > plain.way.memory
    assert "40 needles in 512 tokens" in needles.station.work
    assert whole(load_in_4bit=True).way.way == "4 bits"
    assert [whole(device=name).card.name for name in ("cuda", "cuda:1", "cpu")] == ["first", "second", "cpu"]
    assert whole(device_map="auto").card.name == "first + second"
    heal = [budget_of(planned(with_options(chain, 2, dtype=name)))[2].way.memory for name in ("bfloat16", "float32")]
    assert heal[1] > heal[0]


def test_a_sweep_is_reckoned_with_its_cuts_and_questions(chain, tiny_llama):
    def work(**options):
        recipe = asking(chain, str(tiny_llama), "evaluate sweep", **options)
        return budget_of(planned(recipe))[-1].station.work

    asked = {"domains": "medical,math", "limit": 50}
    of_sizes = work(sizes="0-2", starts="deepest", adapter=["a", "b"], few_shot=2, **asked)
    assert of_sizes.startswith("4 cuts, 200 questions of 360 tokens")
    layers = json.loads((tiny_llama / "config.json").read_text())["num_hidden_layers"]
    every = work(sizes="1", starts="all", protocols="letters", **asked)
    assert every.startswith(f"{layers - 1} cuts, 100 questions")
    assert work(sizes="1", starts="0-1", **asked).startswith("2 cuts")


def test_tasks_of_lm_eval_are_said_not_to_count(chain, tiny_llama):
    def work(**options):
        return budget_of(planned(asking(chain, str(tiny_llama), **options)))[-1].station.work

    assert "not counted" not in work()
    assert work(tasks="arc_easy").endswith("8 at a time, lm-eval tasks not counted")
    alone = work(tasks="arc_easy", domains=None)
    assert alone.startswith("0 questions")
    assert alone.endswith("not counted")


def test_a_model_that_several_cards_hold_is_not_refused(chain, tiny_llama, monkeypatch):
    small = CARDS["L4"].model_copy(update={"name": "small", "memory": int(1.1 * GIB)})
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (small,) * 4)
    wide = {"batch_size": 1, "needles": True, "needle_text": "t.jsonl", "needle_lengths": [8192], "needle_count": 2}
    alone, spread = (
        budget_of(planned(asking(chain, str(tiny_llama), **wide, **more)))[-1] for more in ({}, {"device_map": "auto"})
    )
    assert "run does not fit small" in alone.refused
    assert (spread.refused, spread.card.name) == (None, "4 x small")
    tight = CARDS["L4"].model_copy(update={"name": "tight", "memory": int(0.8 * GIB)})
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (tight,))
    wide = with_options(chain, 0, length=8192, samples=100)
    assert "scan does not fit tight" in budget_of(planned(wide))[0].refused
    for placed in ({"device_map": "auto"}, {"load_in_4bit": True}):
        assert budget_of(planned(with_options(wide, 0, **placed)))[0].refused is None


def test_a_revision_is_the_one_that_is_read(chain, monkeypatch):
    asked = []

    def read(model, query, settings, *, revision=None, **_):
        asked.append(revision)
        raise RegrowthError("seen")

    monkeypatch.setattr("recipes.budget_request.plan_budget", read)
    with pytest.raises(RegrowthError, match="seen"):
        budget_of(planned(with_options(chain, 1, revision="v2")))
    assert asked == ["v2"]


def test_a_dry_run_shows_the_budget_and_why_a_run_would_be_refused(chain, tmp_path):
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(chain.model_dump(mode="json")))
    shown = succeed("recipe", "run", path, "--dry-run").stdout
    assert "What the stages will take" in shown
    assert "disk GiB" in shown
    assert json.loads(succeed("recipe", "run", path, "--dry-run", "--json").stdout)["refused"] is None
    assert "What the stages will take" not in succeed("recipe", "run", path, "--dry-run", "--no-budget").stdout
    large = with_options(chain, 2, batch_size=10**8)
    path.write_text(yaml.safe_dump(large.model_dump(mode="json")))
    assert "does not fit" in succeed("recipe", "run", path, "--dry-run").stdout
    refused = json.loads(succeed("recipe", "run", path, "--dry-run", "--json").stdout)["refused"]
    assert refused.startswith("stage heal: heal qlora does not fit cpu")


def test_where_it_cannot_be_told_the_recipe_goes_on(chain, capsys):
    wrong = chain.model_copy(update={"stages": [chain.stages[1].model_copy(update={"arguments": ["/nowhere/model"]})]})
    budgets.check_budget(planned(wrong), tidy=False)
    assert "What the stages will take cannot be told" in capsys.readouterr().err


def test_tidied_stages_leave_their_room_on_the_disk(chain):
    plan = planned(chain)
    budget = budget_of(plan)
    disks = {one.stage.name: one.station.disk for one in budget}
    assert most_on_disk(plan, budget, tidy=False) == sum(disks.values())
    assert [output.rpartition("/")[2] for _, output in done_with(chain, 0)] == []
    assert {output.rpartition("/")[2] for _, output in done_with(chain, 2)} == {"scan.json", "pruned"}
    assert {output.rpartition("/")[2] for _, output in done_with(chain, 3)} == {"scan.json", "pruned", "adapter"}
    assert most_on_disk(plan, budget, tidy=True) < sum(disks.values())


def stub(monkeypatch, tmp_path):
    """Stages that write a file into their --out at once, and nothing else."""
    program = tmp_path / "program"
    program.write_text(
        '#!/bin/sh\necho "$3" >> "$(dirname "$0")/ran"\n'
        'while [ $# -gt 0 ]; do [ "$1" = --out ] && out=$2; shift; done\n'
        'case $out in *.json) echo "{}" > "$out";; *) mkdir -p "$out"; echo same > "$out/file";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("recipes.runner.sys.executable", str(program))

    def ran():
        log = tmp_path / "ran"
        words = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return words

    return ran


def test_a_tidied_run_knows_what_it_has_done_and_makes_again_what_is_needed(chain, tmp_path, monkeypatch, capsys):
    ran, out = stub(monkeypatch, tmp_path), tmp_path / "out"
    run_recipe(chain, tidy=True, budget=False)
    assert ran() == ["scan", "cut", "qlora", "merge"]
    assert sorted(path.name for path in out.iterdir()) == ["healed", "recipe.json"]
    assert "tidied away" in capsys.readouterr().err
    records = read_stages(out / "recipe.json")
    assert [path.rpartition("/")[2] for path in records["cut"].tidied] == ["pruned"]

    assert [one.why for one in planned(chain, records).stages] == [None] * 4
    run_recipe(chain, tidy=True, budget=False)
    assert ran() == []

    again = [one.why for one in planned(chain, records, start="merge").stages]
    assert again == [
        "scan.json was tidied away and is needed again", "pruned was tidied away and is needed again",
        "adapter was tidied away and is needed again", "asked by --from",
    ]  # fmt: skip
    run_recipe(chain, start="merge", budget=False)
    assert ran() == ["scan", "cut", "qlora", "merge"]
    records = read_stages(out / "recipe.json")
    assert all(record.tidied == () for record in records.values())
    shutil.rmtree(out / "healed")
    assert [one.why for one in planned(chain, records).stages] == [None, None, None, "healed is gone"]


def test_what_a_stage_does_not_read_is_not_made_again(chain, tmp_path, monkeypatch):
    ran = stub(monkeypatch, tmp_path)
    run_recipe(chain, tidy=True, budget=False)
    ran()
    (tmp_path / "out" / "healed" / "file").write_text("changed")
    plan = planned(chain, read_stages(tmp_path / "out" / "recipe.json"))
    assert plan.stages[3].why == "healed was changed"
    assert plan.stages[2].why == "adapter was tidied away and is needed again"  # merge reads it


def test_a_deletion_that_was_stopped_is_finished_and_counts_as_done(chain, tmp_path, monkeypatch):
    ran, out = stub(monkeypatch, tmp_path), tmp_path / "out"
    run_recipe(chain, tidy=True, budget=False)
    ran()
    (out / "pruned").mkdir()
    (out / "pruned" / "half").write_text("what was left when it was killed")
    assert [one.why for one in planned(chain, read_stages(out / "recipe.json")).stages] == [None] * 4
    run_recipe(chain, tidy=True, budget=False)
    assert ran() == []
    assert not (out / "pruned").exists()


def test_only_what_the_recipe_made_inside_its_folder_is_taken_away(chain, tmp_path, monkeypatch):
    stub(monkeypatch, tmp_path)
    outside = chain.stages[0].model_copy(
        update={"options": {**chain.stages[0].options, "out": str(tmp_path / "shared.json")}}
    )
    recipe = chain.model_copy(update={"stages": [outside, *chain.stages[1:]]})
    run_recipe(recipe, budget=False)
    (tmp_path / "out" / "pruned" / "mine.txt").write_text("put there by hand")
    records = read_stages(tmp_path / "out" / "recipe.json")
    assert isinstance(records["scan"], StageRecord)
    run_recipe(recipe.model_copy(update={"stages": [outside]}), tidy=True, budget=False)
    assert (tmp_path / "shared.json").exists()
    assert (tmp_path / "out" / "pruned" / "mine.txt").exists()


def test_tidy_names_stages():
    with pytest.raises(ValueError, match="tidy: heat is no stage"):
        Recipe.model_validate({**CHAIN, "tidy": ["heat"]})


def test_the_command(chain, tmp_path, monkeypatch):
    stub(monkeypatch, tmp_path)
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(chain.model_dump(mode="json")))
    done = succeed("recipe", "run", path, "--tidy")
    assert "What the stages will take" in done.stderr
    assert not (tmp_path / "out" / "adapter").exists()
    assert not (tmp_path / "out" / "pruned").exists()
    places = done.stdout.partition("Where things are")[2]
    assert "the healed model" in places
    assert "the pruned model" not in places  # it was tidied away
    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Disk", "free")(10))
    check_refused(run("recipe", "run", path, "--from", "heal"), 1, "or go on as it is with --no-budget")
    succeed("recipe", "run", path, "--from", "heal", "--no-budget")


def test_what_a_later_stage_reads_by_name_or_lies_elsewhere_is_not_an_intermediate(tmp_path):
    out = tmp_path / "out"
    stages = [
        {"name": "ranking", "command": "heal rank", "arguments": ["m"], "options": {
            "text": "pool.jsonl", "out": f"{out}/rank.json", "select": "10%", "select-out": f"{out}/chosen.jsonl"}},
        {"name": "scan", "command": "prune scan", "arguments": ["m"], "options": {"out": f"{out}/../shared.json"}},
        {"name": "heal", "command": "heal qlora", "arguments": ["m"], "options": {
            "text": "t.jsonl", "domain-text": f"chosen={out}/chosen.jsonl", "out": f"{out}/adapter"}},
        {"name": "merge", "command": "heal merge", "arguments": [f"{out}/adapter"],
         "options": {"out": f"{out}/healed"}},
    ]  # fmt: skip
    recipe = Recipe(name="r", about="", settings={"out": str(out)}, stages=stages, files={"healed": f"{out}/healed"})
    names = [[output.rpartition("/")[2] for _, output in done_with(recipe, after)] for after in range(4)]
    assert names[:2] == [["rank.json"]] * 2
    assert names[2:] == [["rank.json", "chosen.jsonl"], ["rank.json", "chosen.jsonl", "adapter"]]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"fit": "1B", "context": "64"}, 1, "MiB: no cut of"),
        ({"fit": "64GiB", "context": "64"}, 1, "no layer has to go"),
        ({"fit": "1MiB", "context": "4k"}, 2, "stage cut: "),
        ({"n": 2, "context": "64"}, 2, "stage cut: --context goes with --fit or --speed"),
        ({"n": 2, "sequences": 2}, 2, "stage cut: --sequences goes with --fit or --speed"),
        ({"n": 2, "bits": 4}, 2, "stage cut: --bits goes with --fit"),
        ({"fit": "1MiB", "context": "64", "sequences": "two"}, 2, "stage cut: Invalid value for '--sequences'"),
        ({"fit": "1MiB", "context": "64", "prefill-chunk": "x"}, 2, "stage cut: --prefill-chunk 'x' is not"),
        ({"n": 99}, 2, "stage cut: --n 99: a block of 99 layers does not fit: of 8 layers"),
        ({"n": 0}, 2, "stage cut: --n 0: a block of 0 layers does not fit"),
        ({"n": 2, "check-tokens": -1}, 2, "stage cut: --check-tokens -1"),
    ],
)
def test_a_target_that_is_wrong_or_out_of_reach_is_refused_before_the_scan(chain, tmp_path, options, code, words):
    cut = chain.stages[1].model_copy(update={"options": {**options, "out": str(tmp_path / "out" / "pruned")}})
    recipe = chain.model_copy(update={"stages": [chain.stages[0], cut]})
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump({**recipe.model_dump(mode="json"), "tidy": [], "files": {}}))
    check_refused(run("recipe", "run", path), code, words)
    assert not (tmp_path / "out" / "scan.json").exists()
    if code == 2:
        check_refused(run("recipe", "run", path, "--dry-run"), 2, words)
        return
    document = json.loads(succeed("recipe", "run", path, "--dry-run", "--json").stdout)
    assert document["budget"] == []
    assert words in document["refused"]


@pytest.mark.parametrize(
    ("number", "options", "words"),
    [
        (2, {"rank": 10**6}, "stage heal: --rank 1000000 does not fit"),
        (2, {"tokens": "many"}, "stage heal: --tokens 'many' is not"),
    ],
)
def test_what_healing_would_refuse_is_refused_before_the_scan(chain, tmp_path, number, options, words):
    wrong = with_options(chain, number, **options)
    with pytest.raises(RegrowthError, match=words) as refused:
        run_recipe(wrong)
    assert refused.value.exit_code == 2
    assert not (tmp_path / "out" / "scan.json").exists()


def test_sizes_that_a_model_does_not_have_are_refused_before_a_sweep(chain, tiny_llama):
    options = {"data": "d", "sizes": "0-99", "starts": "deepest", "out": "swept"}
    sweep = Stage(name="sweep", command="evaluate sweep", arguments=[str(tiny_llama)], options=options)
    with pytest.raises(
        RegrowthError, match="stage sweep: --sizes 0-99: of 8 layers at most 7 can be dropped"
    ) as refused:
        budgets.told_budget(planned(chain.model_copy(update={"stages": [sweep]})), tidy=False)
    assert refused.value.exit_code == 2


def test_a_target_is_reckoned_with_all_options_of_the_cut(chain, monkeypatch):
    seen = []
    monkeypatch.setattr("recipes.budget_request.target_of", lambda fit, *_, **__: seen.append(fit) or 1 / 0)
    options = {"fit": "8GiB", "context": "4k", "sequences": 2, "bits": 8, "prefill-chunk": 512, "out": "pruned"}
    cut = chain.stages[1].model_copy(update={"options": options})
    with pytest.raises(ZeroDivisionError):
        budget_of(planned(chain.model_copy(update={"stages": [cut]})))
    assert seen == [FitSettings(size=8 << 30, context=4000, sequences=2, bits=8, prefill_chunk=512)]
    fast = cut.model_copy(update={"options": {"speed": "1.3x", "context": "4k", "speed-of": "prefill", "out": "x"}})
    assert budget_of(planned(chain.model_copy(update={"stages": [fast]}))) == ()  # it is measured, not reckoned


def test_a_policy_that_cannot_be_read_is_refused_before_anything_runs(chain, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "policy.yaml").write_text("max_lost: 5\n")
    for options, code, words in (
        ({"max-loss": "5"}, 2, "stage frontier: --max-loss 5 is no percentage"),
        ({"policy": str(tmp_path / "none.yaml")}, 1, "stage frontier: --policy"),
        ({"policy": str(tmp_path / "policy.yaml")}, 1, "max_lost"),
        ({"policy": str(tmp_path / "policy.yaml"), "max-loss": "5%"}, 2, "give one of the two"),
    ):
        last = {"name": "frontier", "command": "evaluate frontier", "arguments": [f"{out}/bill"]}
        last["options"] = {**options, "out": f"{out}/frontier"}
        recipe = chain.model_copy(update={"stages": [*chain.stages, Stage.model_validate(last)]})
        path = tmp_path / "chain.yaml"
        path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        for more in ((), ("--dry-run",)):
            check_refused(run("recipe", "run", path, "--no-budget", *more), code, words)
        assert not (out / "scan.json").exists()


@pytest.mark.parametrize("name", ["regrow", "frontier"])
def test_what_the_budget_asks_for_can_be_set_in_the_shipped_recipes(name):
    recipe = load_recipe(name).resolve({"model": "m", "max_memory": "20GiB", **({"n": 8} if name == "regrow" else {})})
    asked = {stage.command for stage in recipe.stages if stage.options.get("max-memory") == "20GiB"}
    assert asked == {"prune scan", "prune cut", "heal patch", "heal merge"}


def test_states_off_the_card_are_as_wide_as_the_stage_runs(chain, monkeypatch):
    def states(dtype):
        recipe = with_options(chain, 0, dtype=dtype)
        return budgets._states_off(budget_of(planned(recipe))[0])

    assert states("float32") == 2 * states("bfloat16") > 0  # on a CPU none stands on a card
    card = CARDS["L4"].model_copy(update={"name": "small", "memory": GIB})
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (card,))
    assert budget_of(planned(with_options(chain, 0, dtype="float32")))[0].wide == 2
    old = card.model_copy(update={"bfloat16": False})
    monkeypatch.setattr("heal.budget.cards.cards_here", lambda: (old,))
    assert {one.stage.name: one.wide for one in budget_of(planned(with_options(chain, 0, dtype="bfloat16")))} == {
        "scan": 1, "cut": 2, "heal": 2, "merge": 2,
    }  # fmt: skip
