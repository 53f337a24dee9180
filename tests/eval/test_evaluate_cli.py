"""`evaluate` through Typer's runner: help, JSON, exit codes, one clear line for each kind of bad input."""

import json

import pytest

from tests.support.commands import check_refused, run, succeed
from tests.support.texts import write_jsonl


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "originals" / "ASDiv"
    folder.mkdir(parents=True)
    row = {"question": "How many?"}
    rows = [{**row, "passage": f"There are {i} pens and 2 more.", "answer": f"{i + 2} pens"} for i in range(6)]
    write_jsonl(folder / "test.jsonl", rows)
    return folder.parent


@pytest.mark.parametrize("command", ["prepare", "domains", "run", "compare", "sweep", "report"])
def test_help_has_an_example(command):
    shown = succeed("evaluate", command, "--help").stdout
    assert f"Example: evaluate {command} " in " ".join(shown.split())


def test_prepare_run_and_compare_end_to_end(originals, tiny_llama, tmp_path):
    data, out = tmp_path / "questions", tmp_path / "bill"
    asked = ["--data", data, "--domains", "math"]
    prepare = ["evaluate", "prepare", "--from", originals, *asked]
    assert json.loads(succeed(*prepare, "--json").stdout)["domains"]["math"]["questions"] == 6
    check_refused(run(*prepare), 1, "already exists")
    succeed(*prepare, "--overwrite")

    answered = succeed("evaluate", "run", tiny_llama, *asked, "--limit", 3, "--json", "--out", tmp_path / "one")
    assert json.loads(answered.stdout)["rows"][0]["n"] == 3
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        "results.json",
        "run.json",
        "samples_llama_regrowth_math_generation.jsonl",
    }
    assert "math" in succeed("evaluate", "run", tiny_llama, *asked, "--limit", 2).stdout

    compare = ["evaluate", "compare", tiny_llama, tiny_llama, *asked, "--labels", "full,same", "--out", out]
    compare += ["--no-gains"]
    assert json.loads(succeed(*compare, "--json").stdout) == json.loads((out / "comparison.json").read_text())
    check_refused(run(*compare), 1, "already exists")
    assert "Change against full" in succeed(*compare, "--overwrite").stdout


def _fails(code, messages, *words):
    result = run("evaluate", *words)
    assert result.stdout == ""
    assert "bug of ours" not in result.stderr
    for message in messages:
        check_refused(result, code, message)


def test_bad_input_is_one_line_and_writes_nothing(tiny_llama, sample_questions, tmp_path):
    start = sorted(tmp_path.rglob("*"))
    out, gone = tmp_path / "out", tmp_path / "no"
    data = ["--data", sample_questions]
    ask = [*data, "--limit", 2, "--domains", "math"]
    _fails(2, ["'cooking'", "medical", "math"], "run", tiny_llama, *data, "--domains", "cooking")
    _fails(2, ["no domain is named"], "run", tiny_llama, *data, "--domains", " , ")
    _fails(1, ["does not exist", "evaluate prepare"], "run", tiny_llama, "--data", gone, "--domains", "math")
    _fails(1, ["no question files", "evaluate prepare"], "run", tiny_llama, "--data", tmp_path, "--domains", "math")
    _fails(1, ["does not exist"], "run", gone, *ask)
    _fails(1, ["no config.json"], "run", tmp_path, *ask)
    _fails(2, ["--limit 0"], "run", tiny_llama, *ask, "--limit", 0)
    _fails(2, ["--batch-size 0"], "run", tiny_llama, *ask, "--batch-size", 0)
    _fails(2, ["--max-length 8"], "run", tiny_llama, *ask, "--max-length", 8)
    _fails(2, ["--dtype int3"], "run", tiny_llama, *ask, "--dtype", "int3")
    _fails(1, ["--device moon"], "run", tiny_llama, *ask, "--device", "moon")
    _fails(2, ["--sets", "asdiv"], "run", tiny_llama, *ask, "--sets", "none")
    _fails(1, ["--text"], "run", tiny_llama, *ask, "--text", tmp_path / "no.txt")
    _fails(1, ["does not exist"], "compare", tiny_llama, gone, *ask, "--out", out)
    _fails(2, ["--labels"], "compare", tiny_llama, tiny_llama, *ask, "--out", out, "--labels", "one")
    _fails(1, ["--from", "does not exist"], "prepare", "--data", out, "--from", tmp_path / "no.whl")
    _fails(2, ["'cooking'"], "prepare", "--data", out, "--from", tmp_path, "--domains", "cooking")
    assert sorted(tmp_path.rglob("*")) == start


def test_a_domain_that_was_not_prepared_names_the_command(originals, tiny_llama, tmp_path):
    data = tmp_path / "questions"
    succeed("evaluate", "prepare", "--data", data, "--from", originals, "--domains", "math")
    _fails(1, ["no law.jsonl", "--domains math,law --overwrite"], "run", tiny_llama, "--data", data, "--domains", "law")


def test_missing_arguments_are_wrong_usage(tiny_llama):
    assert run("evaluate", "run", tiny_llama).exit_code == 2
    assert run("evaluate", "compare", tiny_llama, "--data", "x", "--domains", "math", "--out", "o").exit_code == 2


def test_no_network_names_the_way_without(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True, raising=False)
    _fails(1, ["--from PATH"], "prepare", "--data", tmp_path / "q", "--domains", "law")
    assert list(tmp_path.iterdir()) == []
