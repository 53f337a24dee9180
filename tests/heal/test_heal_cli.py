"""The commands: what they print, their exit codes, and that nothing is left where they fail."""

import json
import shutil
from dataclasses import fields

import pytest

from heal.settings import DistillSettings, Measuring, PatchRun, PatchSettings, Settings, TrainingRun
from prune.common.screen.options import settings_options
from tests.support.commands import check_refused, error_line, run, succeed

SHAPE = ["--length", "64", "--batch-size", "2", "--accumulate", "1", "--rank", "4"]
SMALL = ["--tokens", "600", *SHAPE, "--device", "cpu"]


@pytest.fixture(scope="module")
def options(sample_text, sample_heldout):
    return ["--text", str(sample_text), "--held-out", str(sample_heldout), "--held-out-tokens", "128", *SMALL]


@pytest.fixture(scope="module")
def adapter(tiny_llama, options, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "adapter"
    done = succeed("heal", "qlora", tiny_llama, "--out", out, *options)
    assert "Healing: loss in nats per token" in done.stdout
    assert "held-out loss" in done.stdout
    assert "Healing ..." in done.stderr
    return out


@pytest.mark.parametrize("command", ["qlora", "distill", "patch", "merge", "budget"])
def test_help_has_an_example(command):
    shown = succeed("heal", command, "--help").output
    assert "Example:" in shown
    assert "--json" in shown


@pytest.mark.parametrize(
    "settings",
    [Settings, DistillSettings, PatchSettings, TrainingRun, PatchRun, Measuring],
    ids=lambda kind: kind.__name__,
)
def test_every_setting_has_its_option(settings):
    names = {field.name for field in fields(settings)} - {"show_progress"}
    assert set(settings_options(settings).kinds) == names


def test_json_is_the_only_thing_on_stdout(tiny_llama, options, tmp_path):
    document = json.loads(succeed("heal", "qlora", tiny_llama, "--out", tmp_path / "a", "--json", *options).stdout)
    assert document == json.loads((tmp_path / "a" / "heal.json").read_text())
    assert document["settings"]["rank"] == 4
    assert document["settings"]["learning_rate"] == 1e-3
    assert document["from_budget"] == ["learning_rate", "warmup"]
    assert document["settings"]["dropout"] == 0.05
    done = succeed("heal", "merge", tmp_path / "a", "--out", tmp_path / "m", "--json")
    assert json.loads(done.stdout)["merge"]["chosen"]["by"] == "measured"  # auto, though nothing asks for it


def test_distill(tiny_llama, pruned, options, tmp_path):
    command = ["heal", "distill", pruned, *options, "--targets", "feed-forward:after-cut", "--teacher", tiny_llama]
    document = json.loads(succeed(*command, "--out", tmp_path / "a", "--json").stdout)
    assert document == json.loads((tmp_path / "a" / "heal.json").read_text())
    assert document["settings"]["temperature"] == 1.0
    assert len(document["adapted"]) == 6
    assert "distill" in (tmp_path / "a" / "README.md").read_text()
    for wrong, code, line in (
        (["--temperature", "0"], 2, "error: --temperature 0.0 is not above 0"),
        (["--teacher", pruned], 1, "error: "),
        (["--out", tmp_path / "a"], 1, "already exists"),
    ):
        check_refused(run(*command, "--out", tmp_path / "b", *wrong), code, line)
        assert not (tmp_path / "b").exists()


def test_the_teacher_is_where_the_plan_says_if_none_is_named(tiny_llama, pruned, options, tmp_path):
    command = ["heal", "distill", pruned, *options, "--targets", "feed-forward:after-cut", "--json"]
    named = json.loads(succeed(*command, "--teacher", tiny_llama, "--out", tmp_path / "named").stdout)
    found = json.loads(succeed(*command, "--out", tmp_path / "found").stdout)
    assert found["teacher"] == named["teacher"]
    assert found["curve"][-1]["held_out_loss"] == named["curve"][-1]["held_out_loss"]


def test_a_teacher_that_is_gone_is_told_alike_by_all_that_need_it(tiny_llama, pruned, options, tmp_path):
    moved = shutil.copytree(pruned, tmp_path / "moved")
    plan = json.loads((moved / "prune_plan.json").read_text())
    plan["source"]["model"] = str(tmp_path / "gone")
    (moved / "prune_plan.json").write_text(json.dumps(plan))
    text, out = options[:2], ["--out", tmp_path / "out"]
    line = "error: the source that prune_plan.json names is not there"
    for words in (["distill", "--rank", 4], ["distill", "--rank", 4, "--batch-size", "auto"], ["patch"], ["finalists"]):
        done = run("heal", words[0], moved, *text, *out, *words[1:])
        check_refused(done, 1, line)
        assert error_line(done.stderr).endswith("give it with --teacher")
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    succeed("heal", "distill", moved, *options, *out, "--teacher", tiny_llama)


def test_merge_says_what_it_did_and_which_base_it_kept(adapter, tmp_path):
    options = ["--base", "auto", "--held-out-tokens", "256", "--no-compare-logits"]
    done = succeed("heal", "merge", adapter, "--out", tmp_path / "merged", *options)
    facts = json.loads((tmp_path / "merged" / "heal.json").read_text())["merge"]
    words = " ".join(done.stdout.split())
    assert f"56 projections carry the adapter; {facts['dequantised']} saved as quantisation left them" in words
    assert f"kept the {facts['base']} base: held-out loss" in words
    assert all(f"{loss:.4f} {name}" in words for name, loss in facts["chosen"]["losses"].items())


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--tokens", "lots"], 2, "'lots' is not a number of tokens"),
        (["--tokens", "100"], 2, "--tokens 100 is less than one step"),
        (["--targets", "heads"], 2, "--targets heads is unknown"),
        (["--rank", "500"], 2, "--rank 500 does not fit"),
        (["--seed", "-1"], 2, "--seed -1 is not between 0 and"),
        (["--seed", "5000000000"], 2, "--seed 5000000000 is not between 0 and"),
        (["--alpha", "nan"], 2, "--alpha nan: use a finite number"),
        (["--alpha", "inf"], 2, "--alpha inf: use a finite number"),
        (["--bits", "5"], 2, "--bits 5 is unknown"),
        (["--attention", "flash"], 2, "--attention flash is unknown; use auto, sdpa, eager"),
        (["--kernels", "cuda"], 2, "--kernels cuda is unknown; use auto, liger, none"),
        (["--adapter-compute", "float16"], 2, "--adapter-compute float16 is unknown; use auto, float32, bfloat16"),
        (["--length", "5000", "--tokens", "20k"], 2, "--length 5000 is beyond the 512 tokens"),
        (["--field", "body"], 1, "has no text field 'body'"),
        (["--text", "nowhere.txt"], 1, "nowhere.txt does not exist"),
        (["--held-out", "nowhere.txt"], 1, "nowhere.txt does not exist"),
        (["--device", "cuda:77"], 1, "--device cuda:77: torch"),
        (["--domain-text", "medical"], 2, "--domain-text medical: write it as NAME=FILE"),
        (["--domain-text", "a=x", "--domain-text", "a=y"], 2, "two texts have one name"),
        (["--schedule", "stairs"], 2, "--schedule stairs is unknown; use cosine, linear, constant"),
        (["--warmup", "150%"], 2, "--warmup 150% is not a number of steps below"),
        (["--warmup", "soon"], 2, "--warmup soon is not"),
        (["--patience", "0"], 2, "--patience 0 is not at least 1"),
        (["--save-every", "0"], 2, "--save-every 0 is not at least 1"),
        (["--report-to", "paper"], 2, "--report-to paper is unknown; use wandb, trackio, tensorboard, none"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(tiny_llama, options, tmp_path, arguments, code, line):
    check_refused(run("heal", "qlora", tiny_llama, "--out", tmp_path / "out", *options, *arguments), code, line)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_whose_record_lacks_fields_is_refused(adapter, tmp_path):
    torn = shutil.copytree(adapter, tmp_path / "torn")
    document = json.loads((torn / "heal.json").read_text())
    del document["base"]
    (torn / "heal.json").write_text(json.dumps(document))
    refused = run("heal", "merge", torn, "--out", tmp_path / "out")
    check_refused(refused, 1, "heal.json is damaged (base: Field required)")


def test_what_is_no_model_and_what_exists(tiny_llama, options, adapter, tmp_path):
    check_refused(run("heal", "qlora", tmp_path, "--out", tmp_path / "out", *options), 1, "holds no config.json")
    for command in (["qlora", tiny_llama, *options], ["merge", adapter]):
        check_refused(run("heal", *command, "--out", adapter), 1, "already exists")
    assert run("heal", "merge", adapter, "--out", tmp_path / "out", "--base", "other").exit_code == 2
    assert list(tmp_path.iterdir()) == []
