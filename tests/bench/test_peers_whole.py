"""The pure parts of the comparisons of healing, of the whole job, and of the four-tool pipeline."""

import json
import os

import pytest
import yaml

from bench.peers import entry, four_tools, heal, judging, materials, row, whole
from bench.peers.record import Measured
from recipes.schema import Recipe


def test_text_that_shares_eight_words_with_a_question_is_left_out():
    question = "Which of these four vessels carries blood back to the heart?"
    copied = "He asked: which of these four vessels carries blood back in fish."
    near = "He asked which of these four vessels carries it back to shore."

    assert list(materials.apart([copied, near], [question])) == [near]


def test_texts_are_taken_up_to_the_tokens_asked_for():
    assert materials.up_to(["a b", "c d", "e f"], 3, lambda text: len(text.split())) == ["a b", "c d"]

    with pytest.raises(ValueError, match="2 of the 3 tokens"):
        materials.up_to(["a b"], 3, lambda text: len(text.split()))


def _interval(estimate):
    return {"estimate": estimate, "low": estimate - 1, "high": estimate + 1}


def _row(model, bits):
    versus = bits is not None and {
        "answer_nll_bits_difference": _interval(bits),
        "accuracy_difference": _interval(-0.1),
    }
    return {"model": model, "domain": "math", "protocol": "choice", "versus": versus or None}


def test_losses_are_read_from_a_comparison():
    comparison = {
        "rows": [_row("full", None), _row("ours", 3.0)],
        "prose": [
            {"model": "full", "difference": None},
            {"model": "ours", "difference": {"estimate": 0.25, "low": 0.2, "high": 0.3}},
        ],
    }

    found = judging.losses(comparison)

    assert set(found) == {"ours"}
    assert found["ours"]["math, choice"]["bits"] == 3.0
    assert found["ours"]["math, choice"]["bits_low"] == 2.0
    assert found["ours"]["math, choice"]["points"] == -10.0
    assert found["ours"]["held-out prose"] == {"nats": 0.25, "nats_low": 0.2, "nats_high": 0.3}


def _losses(bits, nats, width=0.5):
    return {
        "math, choice": {"bits": bits, "bits_low": bits - width, "bits_high": bits + width},
        "held-out prose": {"nats": nats, "nats_low": nats - 0.01, "nats_high": nats + 0.01},
    }


def test_a_row_names_where_a_peer_is_ahead():
    bill = {"Regrowth": _losses(3.0, 0.5), "near": _losses(2.6, 0.6), "far": _losses(1.0, 0.4), "last": _losses(9, 9)}

    assert row.losses_of("near", bill)["ahead_of_regrowth"] == "math, choice (intervals overlap)"
    assert row.losses_of("far", bill)["ahead_of_regrowth"] == "math, choice; held-out prose"
    assert row.losses_of("last", bill)["ahead_of_regrowth"] == "nowhere"
    assert "ahead_of_regrowth" not in row.losses_of("Regrowth", bill)
    assert row.losses_of("not run", bill) == {}


def test_a_tool_that_failed_says_why(tmp_path):
    run = Measured(1, 5.0, 4.0, 1 << 20, "loading\nError: no such layer\nbye\n")

    assert row.figures("peer", run, tmp_path, tmp_path, dropped=[]) == {
        "tool": "peer",
        "not_run": "Error: no such layer",
    }
    assert Measured(-9, 5.0, 4.0, 0, "").why == "stopped after 5 s"
    assert Measured(3, 5.0, 4.0, 0, " \n").why == "exit code 3"


def test_a_tool_that_ended_well_but_left_no_model_has_no_figures(tmp_path):
    run = Measured(0, 5.0, 4.0, 1 << 20, "done\n")

    assert row.figures("peer", run, tmp_path, tmp_path, dropped=[])["not_run"] == "done"
    (tmp_path / "config.json").write_text("{}")
    assert row.figures("peer", run, tmp_path, tmp_path, dropped=[2, 3])["dropped"] == "2,3"


def test_the_recipe_of_the_comparisons_is_one():
    document = yaml.safe_load(whole.RECIPE.read_text())

    Recipe.model_validate(document)
    shortened = Recipe.model_validate(whole.without_bill(document))
    assert [stage.name for stage in shortened.stages] == ["scan", "cut", "patch", "heal", "merge"]


def test_recipe_and_glue_heal_alike():
    """What the settings of a comparison claim to be common is so in the files that are run."""
    stages = {stage["name"]: stage["options"] for stage in yaml.safe_load(whole.RECIPE.read_text())["stages"]}
    script = (four_tools.GLUE / "heal.py").read_text()
    found = {name: stages["heal"][name] for name in ("length", "batch-size", "rank", "learning-rate")}

    assert found == {"length": 128, "batch-size": 4, "rank": 32, "learning-rate": 2e-3}
    for option, value in found.items():
        kind = "float" if option == "learning-rate" else "int"
        assert f'"--{option}", type={kind}, default={"2e-3" if kind == "float" else value})' in script
    soup = whole.soup_config(_text(), whole.Settings())["training"]
    assert (soup["lora"]["r"], soup["batch_size"], soup["lr"]) == (32, 4, 2e-3)


def _text():
    from pathlib import Path

    return whole.Text(*map(Path, ("prose", "calibration", "healing", "chats", "more")), 3, 4)


def test_a_passage_becomes_a_chat_for_soup():
    turns = whole.as_chat("Home Run Derby -- Some notable performances.")["messages"]

    assert [turn["content"] for turn in turns] == ["Home Run Derby", "Some notable performances."]
    assert whole.as_chat("No title here.")["messages"][1]["content"] == "No title here."


def test_lines_that_a_user_writes_are_counted_without_comments(tmp_path):
    script = tmp_path / "a.py"
    script.write_text('"""What it is."""\n\nimport os  # why\n# a comment\n    print(1)\n')

    assert four_tools.written([script]) == 2
    names = {path.name for path in four_tools.files_of_glue()}
    assert {"similarity.py", "merge.yaml", "heal.py", "run.sh", "medical.yaml", "prose.yaml"} <= names


def test_seconds_of_stages_go_by_what_was_written_when(tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    for path, at in ((tmp_path / "similarity.txt", 110), (cut / "a", 115), (cut / "b", 118)):
        path.touch()
        os.utime(path, (at, at))

    found = four_tools.stage_seconds(100, {"scan": tmp_path / "similarity.txt", "cut": cut}, 60.0)

    assert found == {"scan_seconds": 10.0, "cut_seconds": 8.0, "compare_seconds": 42.0}


def test_both_ways_of_healing_are_told_the_same(tmp_path):
    settings = heal.Settings()
    ours = list(map(str, heal.distill(tmp_path, tmp_path / "ours", settings)))
    theirs = list(map(str, heal.trainer(tmp_path, tmp_path / "rows", tmp_path / "theirs", settings)))

    for option in ("--teacher", "--rank", "--learning-rate", "--warmup", "--batch-size"):
        assert ours[ours.index(option) + 1] == theirs[theirs.index(option) + 1]
    assert settings.steps == 40


def test_a_row_of_healing_says_how_much_was_won_back(tmp_path):
    (tmp_path / "run.json").write_text('{"training_seconds": 20.0}')
    run = Measured(0, 30.0, 50.0, 3 << 20, "")

    found = heal.row("peer", run, tmp_path, heal.QUICK, 3.5, before=4.0, full=3.0)

    assert found["won_back"] == 0.5
    assert found["tokens_per_second"] == round(heal.QUICK.tokens / 20, 1)
    assert found["peak_mib"] == 3


def test_a_quick_run_leaves_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bench.peers.record.RESULTS", tmp_path / "results")
    settings = {"n": 6, "sets": ("mmlu", "piqa")}
    entry.conclude("job", "a job", [{"tool": "ours"}], settings, quick=True)
    assert not (tmp_path / "results").exists()
    entry.conclude("job", "a job", [{"tool": "ours"}], settings, quick=False)
    told = json.loads((tmp_path / "results" / "job.json").read_text())["settings"]
    assert told == {"n": 6, "sets": "mmlu, piqa", "model": "SmolLM2-135M-Instruct", "dtype": "float32"}
    assert capsys.readouterr().out.splitlines() == ['{"tool": "ours"}'] * 2
    assert entry.asked_quick("", ["--quick"])
    assert not entry.asked_quick("", [])
